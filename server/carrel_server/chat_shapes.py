"""The engine's messages in OpenAI's shapes, whole and in pieces. Knows what one request asked for; knows no bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from carrel.outputs import ChatMessage, CompletionOutput, MessageDelta, ToolCall, ToolCallDelta


@dataclass(frozen=True)
class ChatShape:
    """How the answers to one request look."""

    shows_reasoning: bool = True
    names_tool: bool = False  # the caller has named the function to call; then calling it is nothing to be told
    uses_functions: bool = False  # the caller speaks of functions, as before there were tools
    echo: str = ""  # what stands before the answer

    def parts(self, choice: CompletionOutput) -> ChatMessage:
        """What the caller is shown of an answer."""
        whole = message_of(choice)
        return whole if self.shows_reasoning else replace(whole, reasoning="")

    def news(self, choice: CompletionOutput) -> MessageDelta:
        """What the caller is shown of a piece of an answer."""
        delta = choice.delta
        assert delta is not None, "streamed chats have deltas"
        return delta if self.shows_reasoning else replace(delta, reasoning="")

    def message(self, choice: CompletionOutput) -> dict[str, Any]:
        """``content`` is null only beside calls, so that whoever reads text finds a string."""
        parts = self.parts(choice)
        content: str | None = self.echo + parts.content
        content = content or (None if parts.tool_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if parts.reasoning:
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
        if delta.reasoning:
            yield both_names(delta.reasoning)
        if delta.content:
            yield {"content": delta.content}
        for piece in delta.tool_calls:
            yield from self._call_deltas(piece)

    def _call_deltas(self, piece: ToolCallDelta) -> Iterator[dict[str, Any]]:
        """``id`` and name in the first delta of a call, in the others arguments alone."""
        if piece.name is not None:
            yield self._call(piece.index, {"name": piece.name, "arguments": ""}, id=piece.id, type="function")
        if piece.arguments:
            yield self._call(piece.index, {"arguments": piece.arguments})

    def _call(self, index: int, function: dict[str, Any], **first: Any) -> dict[str, Any]:
        if self.uses_functions:
            return {"function_call": function}
        return {"tool_calls": [{"index": index, **first, "function": function}]}


def message_of(choice: CompletionOutput) -> ChatMessage:
    """The answer, taken apart."""
    assert choice.message is not None, "finished chats have a message"
    return choice.message


def both_names(reasoning: str) -> dict[str, Any]:
    """vLLM's name for thoughts, and DeepSeek's."""
    return {"reasoning": reasoning, "reasoning_content": reasoning}


def _function(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}
