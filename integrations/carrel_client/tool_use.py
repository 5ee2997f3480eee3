"""Tools and the choice among them, in the spellings of the frameworks, as the engine takes them. Knows no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carrel.chat_options import ChatOptions, Tool, ToolChoice
from carrel.errors import InvalidParamsError

WORDS: Mapping[str, ToolChoice] = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")


def chat_options(given: Mapping[str, Any], chat_template_kwargs: Mapping[str, Any] | None = None) -> ChatOptions:
    """
    >>> weather = {"type": "function", "function": {"name": "查天气"}}
    >>> chat_options({"tools": [weather], "tool_choice": "查天气"}).forced_tools
    ('查天气',)

    Raises:
        InvalidParamsError: a tool that is none, or a choice that names none of them.
    """
    tools = tuple(given.get("tools") or ())
    parallel = given.get("parallel_tool_calls")
    return ChatOptions(
        tools=tools,
        tool_choice=_choice(given.get("tool_choice"), tools),
        parallel_tool_calls=True if parallel is None else parallel,
        chat_template_kwargs=chat_template_kwargs or {},
    )


def _choice(choice: Any, tools: Sequence[Tool]) -> ToolChoice:
    """A tool's name wins over a word: whoever has a tool called ``any`` means it."""
    if choice is None or choice is False:
        return "auto"
    if choice is True:
        return "required"
    if isinstance(choice, Mapping):
        return choice
    if not isinstance(choice, str):
        message = f"tool_choice must be a word, a tool's name, an object or a bool, got {type(choice).__name__}."
        raise InvalidParamsError(message, param="tool_choice")
    names = [tool.get("function", tool).get("name") for tool in tools if isinstance(tool, Mapping)]
    if choice in WORDS and choice not in names:
        return WORDS[choice]
    return {"type": "function", "function": {"name": choice}}
