"""The grammars of calls: what each form lets through, and that its parser reads back what the schema allows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from answers import fold
from carrel.chat_options import ChatOptions
from carrel.errors import InvalidParamsError, RequestError
from carrel.parsers import answer_format
from carrel.parsers.call_forms import call_form
from carrel.parsers.call_grammar import calls_grammar, free_grammar
from carrel.parsers.registry import tool_parsers
from carrel.parsers.tool_set import ToolSet
from carrel.structured_output import GrammarCompiler
from carrel.tokenizer import Tokenizer
from scripted import scripted_folder
from tiny_models import TinyModels

SPECIAL = ["<|im_end|>", "[TOOL_CALLS]", "<|python_tag|>", "<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"]
ADDED = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
SCHEMA = {
    "type": "object",
    "properties": {
        "城市": {"type": "string"},
        "天数": {"type": "integer"},
        "unit": {"enum": ["c", "f"]},
        "详": {"type": "boolean"},
        "t": {"type": "array", "items": {"$ref": "#/$defs/T"}},
    },
    "required": ["城市", "t"],
    "additionalProperties": False,
    "$defs": {"T": {"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"]}},
}
TOOLS = [
    {"type": "function", "function": {"name": "查询", "parameters": SCHEMA, "strict": True}},
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "function": {"name": "later", "parameters": {}}},
]
GOOD = {"城市": '北京🎉 "x"', "天数": 3, "unit": "f", "t": [{"k": "v"}]}
BAD = {"城市": "北京", "天数": "三", "t": []}
CODER_GOOD = (
    '<function=查询>\n<parameter=城市>\n北京🎉 "x"\n</parameter>\n'
    "<parameter=天数>\n3\n</parameter>\n<parameter=unit>\nf\n"
    '</parameter>\n<parameter=t>\n[{"k": "v"}]\n</parameter>\n</function>'
)
WRITTEN = {  # (good, bad, without arguments): the calls of a group, and how a group is written
    "hermes": ("<tool_call>\n%s\n</tool_call>", '{"name": "%s", "arguments": %s}', None),
    "llama3_json": ("%s", '{"name": "%s", "parameters": %s}', "; "),
    "mistral": ("[TOOL_CALLS][%s]", '{"name": "%s", "arguments": %s}', ", "),
    "deepseek_v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>%s<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "function<｜tool▁sep｜>%s\n```json\n%s\n```",
        "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>",
    ),
    "deepseek_v31": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>%s<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "%s<｜tool▁sep｜>%s",
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>",
    ),
    "phi4_mini_json": ("functools[%s]", '{"name": "%s", "arguments": %s}', ", "),
    "json": ("[%s]", '{"name": "%s", "parameters": %s}', ", "),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("grammars")
    return Tokenizer.from_folder(scripted_folder(tiny_models, folder, special=SPECIAL, added=ADDED))


@pytest.fixture(scope="module")
def takes(tokenizer):
    """``takes(lark, text)``: "all" of a whole answer, "some" of its beginning, or None."""
    end = tokenizer.token_to_id("<|im_end|>")
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size, [end])

    def run(lark, text):
        matcher = compiler.compile(lark).matcher()
        mask = np.zeros(-(-tokenizer.vocab_size // 32), dtype=np.int32)
        for token_id in tokenizer.encode(text, add_special_tokens=False):
            matcher.fill_bitmask(mask)
            if not is_set(mask, token_id):
                return None
            matcher.consume([token_id])
        matcher.fill_bitmask(mask)
        return "all" if is_set(mask, end) else "some"

    return run


def is_set(mask, token_id):
    return bool(mask[token_id // 32] >> (token_id % 32) & 1)


@pytest.mark.parametrize("parser", WRITTEN)
def test_forms_that_hold_json(parser, tokenizer, takes):
    group, call, between = WRITTEN[parser]
    form, tools = call_form(parser, tokenizer), ToolSet(TOOLS)

    def written(*calls):
        texts = [call % (name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
        return "\n".join(group % text for text in texts) if between is None else group % between.join(texts)

    one = calls_grammar(form, tools.schemas(list(tools)), tokenizer, many=False)
    several = calls_grammar(form, tools.schemas(list(tools)), tokenizer, many=True)
    free = free_grammar(form, tools.strict_schemas(), tokenizer, many=True)
    at_most_one = free_grammar(form, tools.strict_schemas(), tokenizer, many=False)
    two = written(("查询", GOOD), ("now", {}))
    for lark in (one, several, free, at_most_one):
        assert takes(lark, written(("查询", GOOD))) == "all"
        assert takes(lark, written(("later", {}))) == "all"
        assert takes(lark, written(("查询", BAD))) is None
        assert takes(lark, written(("else", {}))) is None
    assert takes(several, two) == "all"
    assert takes(free, two) == "all"
    assert takes(one, two) is None
    assert takes(at_most_one, two) is None
    assert takes(one, "你好") is None
    for lark in (free, at_most_one):
        assert takes(lark, "你好, [1] {}") == "all"
        assert takes(lark, "") == "all"
    message = fold(tool_parsers()[parser](tools), two)
    assert [(c.name, json.loads(c.arguments)) for c in message.tool_calls] == [("查询", GOOD), ("now", {})]


def test_mistral_with_a_token_for_arguments(tiny_models, tmp_path, takes, tokenizer):
    folder = scripted_folder(tiny_models, tmp_path, special=[*SPECIAL, "[ARGS]"])
    newer = Tokenizer.from_folder(folder)
    form = call_form("mistral", newer)
    assert form.open == ""
    lark = calls_grammar(form, ToolSet(TOOLS).schemas(["now"]), newer, many=False)
    assert '"now"' in lark
    assert f"<[{newer.token_to_id('[ARGS]')}]>" in lark


def test_qwen3_coder(tokenizer, takes):
    tools, form = ToolSet(TOOLS), call_form("qwen3_coder", tokenizer)
    lark = calls_grammar(form, tools.schemas(list(tools)), tokenizer, many=True)
    text = f"<tool_call>\n{CODER_GOOD}\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"
    assert takes(lark, text) == "all"
    calls = fold(tool_parsers()["qwen3_coder"](tools), text).tool_calls
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("查询", GOOD), ("now", {})]
    head = "<tool_call>\n<function=查询>\n<parameter=城市>\n"
    assert takes(lark, head + "a\n</parameter>\n<parameter=t>\n[]\n</parameter>\n</function>\n</tool_call>") == "all"
    assert takes(lark, "<tool_call>\n<function=查询>\n<parameter=t>") is None
    assert takes(lark, head + "a\n</parameter>\n<parameter=天数>\n三") is None
    assert takes(lark, head + "a\n</parameter>\n<parameter=unit>\nx") is None
    free = free_grammar(form, tools.strict_schemas(), tokenizer, many=True)
    assert takes(free, "好\n" + text + " 完") == "all"
    assert takes(free, "<tool_call>\n<function=other>") is None


def test_qwen3_coder_lengths(tokenizer, takes):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 2, "maxLength": 3}},
        "required": ["a"],
    }
    tools = ToolSet([{"function": {"name": "f", "parameters": schema}}])
    lark = calls_grammar(call_form("qwen3_coder", tokenizer), tools.schemas(["f"]), tokenizer, many=False)
    for value, taken in [("一", None), ("一二", "all"), ("一二三", "all"), ("一二三四", None)]:
        text = f"<tool_call>\n<function=f>\n<parameter=a>\n{value}\n</parameter>\n</function>\n</tool_call>"
        assert takes(lark, text) == taken


def test_pythonic(tokenizer, takes):
    tools, form = ToolSet(TOOLS), call_form("pythonic", tokenizer)
    lark = calls_grammar(form, tools.schemas(list(tools)), tokenizer, many=True)
    text = '[查询(城市="北京🎉 \\"x\\"", 天数=3, unit="f", t=[{"k": "v"}]), now()]'
    assert takes(lark, text) == "all"
    calls = fold(tool_parsers()["pythonic"](tools), text).tool_calls
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("查询", GOOD), ("now", {})]
    assert takes(lark, '[查询(城市="a", 详=True, t=[])]') == "all"
    assert takes(lark, '[查询(城市="a")]') is None
    assert takes(lark, "[查询(天数=3") is None
    free = free_grammar(form, tools.strict_schemas(), tokenizer, many=True)
    assert takes(free, "好 [1]") == "all"
    assert takes(free, "[1]") is None


class Model:
    key = "m"
    reasoning_parser = None

    def __init__(self, tokenizer, parser, reasoning=None):
        self.tokenizer, self.tool_call_parser, self.reasoning_parser = tokenizer, parser, reasoning


def test_what_a_call_asks_for(tokenizer, takes):
    model, plain = Model(tokenizer, "hermes"), [TOOLS[1], TOOLS[2]]
    assert answer_format(model, ChatOptions(tools=plain), "").tool_grammar is None
    assert answer_format(model, ChatOptions(tools=TOOLS, tool_choice="none"), "").tool_grammar is None
    assert answer_format(model, ChatOptions(), "").tool_grammar is None
    named = answer_format(model, ChatOptions(tools=TOOLS, tool_choice={"function": {"name": "now"}}), "").tool_grammar
    assert takes(named, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>') == "all"
    assert takes(named, '<tool_call>\n{"name": "later"') is None
    single = answer_format(model, ChatOptions(tools=plain, parallel_tool_calls=False), "").tool_grammar
    assert takes(single, '<tool_call>\n{"name": "now", "arguments": {"any": 1}}\n</tool_call>') == "all"
    strict = answer_format(model, ChatOptions(tools=TOOLS), "").tool_grammar
    assert takes(strict, "好") == "all"


def test_a_model_whose_format_is_not_known(tokenizer, takes):
    model = Model(tokenizer, None)
    with pytest.raises(RequestError, match="--tool-call-parser") as caught:
        answer_format(model, ChatOptions(tools=TOOLS), "")
    assert caught.value.param == "tools"
    forced = answer_format(model, ChatOptions(tools=TOOLS, tool_choice="required"), "")
    assert takes(forced.tool_grammar, '[{"name": "now", "parameters": {}}]') == "all"
    assert fold(forced.make_parser(), '[{"name": "now", "parameters": {}}]').tool_calls[0].name == "now"


def test_kept_special_tokens_are_those_of_the_format(tokenizer):
    model = Model(tokenizer, "mistral", "qwen3")
    kept = answer_format(model, ChatOptions(tools=TOOLS), "").kept_special_ids
    assert kept == {tokenizer.token_to_id("[TOOL_CALLS]")}
    assert answer_format(model, ChatOptions(), "").kept_special_ids == frozenset()


def test_tools_that_make_no_sense():
    with pytest.raises(InvalidParamsError, match="128"):
        ChatOptions(tools=[{"function": {"name": f"f{i}"}} for i in range(129)])
    for name in ("", "a b", 'a"b', "x" * 129):
        with pytest.raises(InvalidParamsError):
            ChatOptions(tools=[{"function": {"name": name}}])
    with pytest.raises(InvalidParamsError, match="twice"):
        ChatOptions(tools=[{"function": {"name": "f"}}, {"function": {"name": "f"}}])
    with pytest.raises(InvalidParamsError, match="parameters"):
        ChatOptions(tools=[{"function": {"name": "f", "parameters": [1]}}])
