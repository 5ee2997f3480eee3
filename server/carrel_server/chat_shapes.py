"""The engine's messages in OpenAI's shapes, whole and in pieces. Knows what one request asked for; knows no bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from carrel.outputs import ChatMessage, CompletionOutput, MessageDelta, ToolCall, ToolCallDelta


@dataclass(frozen=True)
class ChatShape:
    """How the answers to one request look."""

    shows_reasoning: bool = True
    names_tool: bool = False  # the caller has named the function to call; then calling it is nothing to be told
    uses_functions: bool = False  # the caller speaks of functions, as before there were tools
    echo: str = ""  # what stands before the answer

    def message(self, choice: CompletionOutput) -> dict[str, Any]:
        """``content`` is null only beside calls, so that whoever reads text finds a string."""
        parts = message_of(choice)
        content: str | None = self.echo + parts.content
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if parts.tool_calls else "")}
        if parts.reasoning and self.shows_reasoning:
            message |= both_names(parts.reasoning)
        if parts.tool_calls and self.uses_functions:
            message["function_call"] = _function(parts.tool_calls[0])
        elif parts.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": _function(call)} for call in parts.tool_calls
            ]
        return message

    def finish_reason(self, reason: str | None, *, has_calls: bool) -> str | None:
        """A call is the reason of an end that would be "stop"; not for a named function, as with vLLM and OpenAI."""
        if reason != "stop" or not has_calls or self.names_tool:
            return reason
        return "function_call" if self.uses_functions else "tool_calls"

    def deltas(self, delta: MessageDelta) -> Iterator[dict[str, Any]]:
        """One delta a chunk, of one kind each: Spring AI refuses two calls in a chunk."""
        if delta.reasoning and self.shows_reasoning:
            yield both_names(delta.reasoning)
        if delta.content:
            yield {"content": delta.content}
        for piece in delta.tool_calls:
            yield from self._call_deltas(piece)

    def _call_deltas(self, piece: ToolCallDelta) -> Iterator[dict[str, Any]]:
        """``id`` and name in the first delta of a call, in the others arguments alone."""
        if self.uses_functions and piece.index:
            return  # there was one call at most, then
        if piece.name is not None:
            yield self._call(piece.index, {"name": piece.name, "arguments": ""}, id=piece.id, type="function")
        if piece.arguments:
            yield self._call(piece.index, {"arguments": piece.arguments})

    def _call(self, index: int, function: dict[str, Any], **first: Any) -> dict[str, Any]:
        if self.uses_functions:
            return {"function_call": function}
        return {"tool_calls": [{"index": index, **first, "function": function}]}


def message_of(choice: CompletionOutput) -> ChatMessage:
    """An answer that nothing has taken apart is all words."""
    return choice.message or ChatMessage(content=choice.text)


def delta_of(choice: CompletionOutput) -> MessageDelta:
    """What is new of :func:`message_of`."""
    return MessageDelta(content=choice.text) if choice.delta is None else choice.delta


def both_names(reasoning: str) -> dict[str, Any]:
    """vLLM's name for thoughts, and DeepSeek's."""
    return {"reasoning": reasoning, "reasoning_content": reasoning}


def _function(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}
