"""Names of the formats in which models write tool calls and thoughts, and how a chat template tells them.

Knows vLLM's names; does not know what a format is made of.
"""

from __future__ import annotations

from collections.abc import Mapping

from carrel.errors import InvalidParamsError
from carrel.parsers.deepseek import DeepSeekParser
from carrel.parsers.hermes import HermesParser
from carrel.parsers.json_list import FunctoolsParser, JsonListParser
from carrel.parsers.llama3_json import Llama3JsonParser
from carrel.parsers.mistral import MistralParser
from carrel.parsers.pythonic import PythonicParser
from carrel.parsers.qwen3_coder import Qwen3CoderParser
from carrel.parsers.tool_parser import ToolCallParser

OFF = "none"
# What formats that are not known here have besides the tags of known ones: GLM 4.5, Hunyuan, Seed-OSS.
OTHER_FORMATS = ("<arg_key>", "<tool_sep>", "<seed:tool_call>")


def tool_parsers() -> Mapping[str, type[ToolCallParser]]:
    """Parsers of tool calls by the name that --tool-call-parser takes."""
    return {
        "hermes": HermesParser,
        "llama3_json": Llama3JsonParser,
        "llama4_json": Llama3JsonParser,
        "mistral": MistralParser,
        "qwen3_coder": Qwen3CoderParser,
        "qwen3_xml": Qwen3CoderParser,
        "mimo": Qwen3CoderParser,
        "pythonic": PythonicParser,
        "llama4_pythonic": PythonicParser,
        "deepseek_v3": DeepSeekParser,
        "deepseek_v31": DeepSeekParser,
        "phi4_mini_json": FunctoolsParser,
        "json": JsonListParser,
    }


def thought_tags() -> Mapping[str, tuple[str, str]]:
    """Tags around thoughts by the name that --reasoning-parser takes."""
    think = ("<think>", "</think>")
    names = ("qwen3", "deepseek_r1", "deepseek_v3", "glm45", "holo2", "mimo", "nemotron_v3", "olmo3", "step3")
    return dict.fromkeys(names, think) | {
        "mistral": ("[THINK]", "[/THINK]"),
        "seed_oss": ("<seed:think>", "</seed:think>"),
    }


def resolve_tool_parser(asked: str | None, template: str | None) -> str | None:
    """Name of the format of tool calls: as asked, "none" for none at all, else read from the chat template.

    Raises:
        InvalidParamsError: there is no such format here.
    """
    if asked is None:
        return detect_tool_parser(template or "")
    return _checked(asked, tool_parsers(), "tool_call_parser")


def resolve_reasoning_parser(asked: str | None, template: str | None) -> str | None:
    """Name of the format of thoughts; as :func:`resolve_tool_parser`."""
    if asked is None:
        return detect_reasoning_parser(template or "")
    return _checked(asked, thought_tags(), "reasoning_parser")


def _checked(asked: str, known: Mapping[str, object], param: str) -> str | None:
    if asked == OFF:
        return None
    name = asked.replace("-", "_")
    if name not in known:
        flag = param.replace("_", "-")
        raise InvalidParamsError(
            f"--{flag}: there is no parser {asked!r} here. Known: {', '.join(sorted(known))}; {OFF!r} turns it off.",
            param=param,
        )
    return name


def detect_tool_parser(template: str) -> str | None:
    """The format that a template teaches; None if it teaches none that is known.

    >>> detect_tool_parser("{% for tool in tools %}… within <tool_call></tool_call> …{% endfor %}")
    'hermes'
    """
    if "tools" not in template and "tool_calls" not in template:
        return None
    if any(sign in template for sign in OTHER_FORMATS):
        return None
    signs = (
        ("<function=", "qwen3_coder"),
        ("[TOOL_CALLS]", "mistral"),
        ("<｜tool▁sep｜>", "deepseek_v3" if "```json" in template else "deepseek_v31"),
        ("<tool_call>", "hermes"),
        ("functools[", "phi4_mini_json"),
        ("<|python_start|>", "llama4_pythonic"),
        ("<|python_tag|>", "llama3_json"),
        ('"parameters": dictionary', "llama3_json"),
        ("[func_name1(", "pythonic"),
    )
    return next((name for sign, name in signs if sign in template), None)


def detect_reasoning_parser(template: str) -> str | None:
    """The format of thoughts that a template names.

    >>> detect_reasoning_parser("{% if enable_thinking %}<think>{% endif %}")
    'qwen3'
    """
    for name, (start, end) in thought_tags().items():
        if end in template or start in template:
            return name if name != "qwen3" or "enable_thinking" in template else "deepseek_r1"
    return None
