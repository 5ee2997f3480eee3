"""The events of a streamed response. Knows the order that OpenAI gives them; knows no bytes.

::

    response.created, response.in_progress
    one item after another:
        output_item.added
            content_part.added   output_text.delta …     output_text.done     content_part.done     words
            content_part.added   reasoning_text.delta …  reasoning_text.done  content_part.done     thoughts
                                 function_call_arguments.delta …  .done                             a call
        output_item.done
    response.completed, or .incomplete, or .failed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from carrel.outputs import MessageDelta, ToolCall

from carrel_server.response_items import (
    COMPLETED,
    IN_PROGRESS,
    Item,
    call_item,
    message_item,
    reasoning_item,
    reasoning_part,
    text_part,
)

Event = dict[str, Any]
CALL, TEXT, REASONING = "function_call", "output_text", "reasoning_text"


@dataclass(slots=True)
class OpenItem:
    """The item that is being written; ``kind`` is the name of its deltas."""

    kind: str
    item: Item
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)


class ResponseEvents:
    """Turns deltas into events; ``output`` is what has been written."""

    def __init__(self) -> None:
        self.output: list[Item] = []
        self._open: OpenItem | None = None
        self._number = 0

    def event(self, kind: str, **fields: Any) -> Event:
        """An event with its number."""
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def deltas(self, delta: MessageDelta, logprobs: Sequence[Any] = ()) -> Iterator[Event]:
        if delta.reasoning:
            yield from self._text(REASONING, delta.reasoning)
        if delta.content:
            yield from self._text(TEXT, delta.content, logprobs)
        for piece in delta.tool_calls:
            if piece.name is not None:
                yield from self.close()
                yield from self._begin(CALL, call_item(ToolCall(piece.id or "", piece.name, ""), IN_PROGRESS))
            if piece.arguments:
                yield self._piece("response.function_call_arguments.delta", piece.arguments)

    def close(self, status: str = COMPLETED) -> Iterator[Event]:
        """End the open item, if there is one."""
        written, self._open = self._open, None
        if written is None:
            return
        text = "".join(written.pieces)
        place = self._place(written)
        if written.kind == CALL:
            name = written.item["name"]
            yield self.event("response.function_call_arguments.done", **place, name=name, arguments=text)
            written.item["arguments"] = text
        else:
            yield from self._close_part(written, text)
        written.item["status"] = status
        yield self.event("response.output_item.done", output_index=place["output_index"], item=written.item)

    def finish(self, status: str, logprobs: Sequence[Any] = ()) -> Iterator[Event]:
        """The end of the output; an answer of nothing is a message of nothing."""
        if self._open is None and not self.output:
            yield from self._begin(TEXT, message_item([], IN_PROGRESS))
        if self._open is not None and self._open.kind == TEXT:
            self._open.logprobs += logprobs
        yield from self.close(status)

    def _text(self, kind: str, text: str, logprobs: Sequence[Any] = ()) -> Iterator[Event]:
        if self._open is None or self._open.kind != kind:
            yield from self.close()
            make = message_item if kind == TEXT else reasoning_item
            yield from self._begin(kind, make([], IN_PROGRESS))
        assert self._open is not None, "it was begun"
        self._open.logprobs += logprobs
        extra = {"logprobs": list(logprobs)} if kind == TEXT else {}
        yield self._piece(f"response.{kind}.delta", text, content_index=0, **extra)

    def _begin(self, kind: str, item: Item) -> Iterator[Event]:
        self._open = OpenItem(kind, item)
        self.output.append(item)
        place = self._place(self._open)
        # The item goes on to change, and an event is written later.
        yield self.event("response.output_item.added", output_index=place["output_index"], item=dict(item))
        if kind != CALL:
            part = text_part() if kind == TEXT else reasoning_part()
            yield self.event("response.content_part.added", **place, content_index=0, part=part)

    def _piece(self, kind: str, text: str, **fields: Any) -> Event:
        assert self._open is not None, "pieces are of an item"
        self._open.pieces.append(text)
        return self.event(kind, **self._place(self._open), **fields, delta=text)

    def _close_part(self, written: OpenItem, text: str) -> Iterator[Event]:
        place = self._place(written)
        is_text = written.kind == TEXT
        part = text_part(text, written.logprobs) if is_text else reasoning_part(text)
        extra = {"logprobs": written.logprobs} if is_text else {}
        yield self.event(f"response.{written.kind}.done", **place, content_index=0, text=text, **extra)
        yield self.event("response.content_part.done", **place, content_index=0, part=part)
        written.item["content"] = [part]

    def _place(self, written: OpenItem) -> dict[str, Any]:
        return {"item_id": written.item["id"], "output_index": len(self.output) - 1}
