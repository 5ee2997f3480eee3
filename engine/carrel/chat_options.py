"""How a conversation is rendered and answered. Plain data; knows no template and no parser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from carrel.errors import InvalidParamsError

Tool = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters", "strict"}}
ToolChoice = Literal["auto", "required", "none"] | Mapping[str, Any]  # or {"type": "function", "function": {"name"}}


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What a chat call says beside its messages and sampling parameters.

    >>> ChatOptions(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="required").forced_tools
    ('f',)

    Raises:
        InvalidParamsError: a tool without a name, or a choice that names no tool.
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
        names = [_name_of(tool, f"tools[{i}]") for i, tool in enumerate(self.tools)]
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


def _name_of(value: Any, place: str) -> str:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidParamsError(
            f"{place} must be an object with a function that has a name.", param=place.split("[")[0]
        )
    return name
