"""Tools and the choice among them, in OpenAI's spellings old and new. Knows no model and no parser.

The engine gets one spelling: ``{"type": "function", "function": {"name", "description", "parameters", "strict"}}`` and
``"auto" | "required" | "none" | {"type": "function", "function": {"name"}}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from carrel.chat_options import MAX_TOOLS
from carrel.errors import InvalidParamsError

Choice = Literal["auto", "required", "none"] | dict[str, Any]
WORDS: Mapping[str, Literal["auto", "required", "none"]] = {  # "any" is Mistral's
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",
}


@dataclass(frozen=True)
class ToolUse:
    """What the engine is told of tools."""

    tools: tuple[dict[str, Any], ...] = ()
    choice: Choice = "auto"

    @property
    def forced(self) -> bool:
        """Whether the answer must be a call."""
        return bool(self.tools) and (self.choice == "required" or isinstance(self.choice, dict))

    @property
    def named(self) -> bool:
        """Whether the caller has named the one function to call."""
        return isinstance(self.choice, dict)


def read_tools(tools: Sequence[Any], choice: Any, *, place: str = "tools") -> ToolUse:
    """
    >>> read_tools([{"type": "function", "function": {"name": "f"}}], None).choice
    'auto'

    Raises:
        InvalidParamsError: a tool that is no function with a name, or a choice that is none.
    """
    check_number(tools, place)
    functions = tuple(_function_tool(f"{place}[{i}]", tool) for i, tool in enumerate(tools))
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        return _allowed(functions, choice)
    wanted = _choice(choice)
    if not functions and wanted not in ("auto", "none"):
        raise InvalidParamsError("tool_choice needs tools.", param="tool_choice")
    return ToolUse(functions, wanted)


def read_functions(functions: Sequence[Any], function_call: Any) -> ToolUse:
    """The same of ``functions`` and ``function_call``, as tools were called before.

    >>> read_functions([{"name": "f"}], {"name": "f"}).forced
    True

    Raises:
        InvalidParamsError: a function without a name, or a choice that is none.
    """
    check_number(functions, "functions")
    tools = [{"function": checked_function(f"functions[{i}]", function)} for i, function in enumerate(functions)]
    if function_call not in (None, "auto", "none") and not isinstance(function_call, Mapping):
        raise InvalidParamsError("function_call must be auto, none or name a function.", param="function_call")
    return read_tools(tools, function_call)


def check_number(tools: Sequence[Any], place: str) -> None:
    """The engine's own limit, before each of a hundred thousand is looked at.

    Raises:
        InvalidParamsError: too many.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidParamsError(f"At most {MAX_TOOLS} {place}, got {len(tools)}.", param=place)


def _function_tool(place: str, tool: Any) -> dict[str, Any]:
    """``{"type": "function", "function": {…}}``, or the flat form of ``/v1/responses``."""
    param = place.split("[")[0]
    if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
        kind = tool.get("type") if isinstance(tool, Mapping) else tool
        raise InvalidParamsError(f"{place} is of type {kind!r:.80}; only functions are supported.", param=param)
    inner = tool.get("function", {key: value for key, value in tool.items() if key != "type"})
    return {"type": "function", "function": checked_function(place, inner)}


def checked_function(place: str, function: Any) -> dict[str, Any]:
    """The function without nulls.

    Raises:
        InvalidParamsError: it has no name, or its parameters are no JSON schema.
    """
    param = place.split("[")[0]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidParamsError(f"{place} must be a function with a name.", param=param)
    given = {key: value for key, value in function.items() if value is not None}
    for field, kind, what in (
        ("parameters", dict, "a JSON schema"),
        ("description", str, "text"),
        ("strict", bool, ""),
    ):
        if field in given and not isinstance(given[field], kind):
            message = f"{place}.{field} must be {what or 'true or false'}, got {type(given[field]).__name__}."
            raise InvalidParamsError(message, param=param)
    return given


def _choice(choice: Any) -> Choice:
    if choice is None:
        return "auto"
    if isinstance(choice, str) and choice in WORDS:
        return WORDS[choice]
    function = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        message = f"tool_choice must be auto, required, none or name a function, got {choice!r:.80}."
        raise InvalidParamsError(message, param="tool_choice")
    return {"type": "function", "function": {"name": name}}


def _allowed(functions: Sequence[dict[str, Any]], choice: Mapping[str, Any]) -> ToolUse:
    """OpenAI's ``allowed_tools``: the model sees these alone."""
    inner = choice.get("allowed_tools", choice)
    listed = inner.get("tools") if isinstance(inner, Mapping) else None
    if not isinstance(listed, list) or inner.get("mode", "auto") not in ("auto", "required"):
        message = "tool_choice.allowed_tools must hold tools and a mode, auto or required."
        raise InvalidParamsError(message, param="tool_choice")
    chosen = [_choice(tool) for tool in listed]
    names = {tool["function"]["name"] for tool in chosen if isinstance(tool, dict)}
    unknown = names - {tool["function"]["name"] for tool in functions}
    if unknown or not names:
        message = (
            f"tool_choice.allowed_tools names {min(unknown, default='nothing')!r:.80}, which is none of the tools."
        )
        raise InvalidParamsError(message, param="tool_choice")
    allowed = tuple(tool for tool in functions if tool["function"]["name"] in names)
    return ToolUse(allowed, inner.get("mode", "auto"))
