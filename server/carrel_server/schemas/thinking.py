"""Whether a model shall think first, in the spellings of its many clients. Knows the names that chat templates read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carrel.errors import InvalidParamsError

ALIASES = {":nothink": False, ":think": True}  # at the end of a model's name, for clients that can set nothing else
SWITCHES = frozenset({"enable_thinking", "thinking"})
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def split_alias(name: str) -> tuple[str, bool | None]:
    """
    >>> split_alias("qwen3:nothink"), split_alias("qwen3")
    (('qwen3', False), ('qwen3', None))
    """
    for alias, thinks in ALIASES.items():
        if name.endswith(alias):
            return name.removesuffix(alias), thinks
    return name, None


def switch(thinks: bool) -> dict[str, Any]:
    """Variables of templates: Qwen3's, GLM's and others' ``enable_thinking``, DeepSeek's and Granite's ``thinking``."""
    return {"enable_thinking": thinks, "thinking": thinks}


def over(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """Both, where ``strong`` wins; a switch in it under one name puts out the other name's, too."""
    hidden = SWITCHES if strong.keys() & SWITCHES else frozenset()
    return {**{key: value for key, value in weak.items() if key not in hidden}, **strong}


def of_effort(effort: str | None) -> dict[str, Any]:
    """``reasoning_effort``: "none" is no thinking at all; gpt-oss' template reads the word itself.

    Raises:
        InvalidParamsError: not one of the efforts.
    """
    if effort is None:
        return {}
    if effort not in EFFORTS:
        message = f"reasoning_effort must be one of {', '.join(EFFORTS)}, got {effort!r:.80}."
        raise InvalidParamsError(message, param="reasoning_effort")
    return switch(effort != "none") | {"reasoning_effort": effort}


def of_thinking(value: bool | Mapping[str, Any] | None) -> dict[str, Any]:
    """``thinking: {"type": "disabled"}``, Anthropic's and Dify's way, or true and false.

    Raises:
        InvalidParamsError: an object without such a type.
    """
    if value is None or isinstance(value, bool):
        return {} if value is None else switch(value)
    kind = value.get("type")
    if kind not in ("enabled", "disabled", "adaptive", "auto"):
        message = f"thinking.type must be enabled or disabled, got {kind!r:.80}."
        raise InvalidParamsError(message, param="thinking")
    return {} if kind in ("adaptive", "auto") else switch(kind == "enabled")
