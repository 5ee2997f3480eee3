"""How a conversation is rendered and answered. Plain data; knows no template and no parser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from carrel.errors import InvalidParamsError

MAX_TOOLS = 128
TOOL_NAME = re.compile(r"[\w.:/-]{1,128}")
Tool = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters", "strict"}}
ToolChoice = Literal["auto", "required", "none"] | Mapping[str, Any]  # or {"type": "function", "function": {"name"}}


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What a chat call says beside its messages and sampling parameters.

    >>> ChatOptions(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="required").forced_tools
    ('f',)

    Raises:
        InvalidParamsError: too many tools, one without a proper name or schema, or a choice that names no tool.
    """

    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = "auto"  # "none": the model sees the tools, and its answer is text
    parallel_tool_calls: bool = True
    chat_template: str | None = None  # replaces the model's own for this call
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tools", tuple(self.tools or ()))
        if len(self.tools) > MAX_TOOLS:
            raise InvalidParamsError(f"At most {MAX_TOOLS} tools, got {len(self.tools)}.", param="tools")
        names = [_checked_tool(tool, f"tools[{i}]") for i, tool in enumerate(self.tools)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidParamsError(f"Tools need different names; {twice.pop()!r} is there twice.", param="tools")
        if self.tool_choice not in ("auto", "required", "none"):
            name = _name_of(self.tool_choice, "tool_choice")
            if name not in names:
                raise InvalidParamsError(
                    f"tool_choice names {name!r}, which is none of the tools.", param="tool_choice"
                )
        if self.tool_choice == "required" and not names:
            raise InvalidParamsError("tool_choice is required, and there are no tools.", param="tool_choice")

    @property
    def forced_tools(self) -> tuple[str, ...]:
        """Names of the tools one of which must be called; empty if the model may answer with text."""
        if isinstance(self.tool_choice, Mapping):
            return (_name_of(self.tool_choice, "tool_choice"),)
        return tuple(_name_of(tool, "tools") for tool in self.tools) if self.tool_choice == "required" else ()

    @property
    def may_call(self) -> bool:
        """Whether the answer may hold calls."""
        return bool(self.tools) and self.tool_choice != "none"


def _checked_tool(tool: Any, place: str) -> str:
    """Its name, if it is one that can be written in a call."""
    name = _name_of(tool, place)
    if not TOOL_NAME.fullmatch(name):
        raise InvalidParamsError(
            f"{place}: the name {name!r:.80} must be 1 to 128 letters, digits and any of _ . : / -", param="tools"
        )
    parameters = tool.get("function", tool).get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidParamsError(f"{place}: parameters must be a JSON schema, an object.", param="tools")
    return name


def _name_of(value: Any, place: str) -> str:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidParamsError(
            f"{place} must be an object with a function that has a name.", param=place.split("[")[0]
        )
    return name
