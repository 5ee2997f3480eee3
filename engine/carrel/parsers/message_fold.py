"""Collects the pieces of one message: whole, or only what is new. Knows no text format."""

from __future__ import annotations

from carrel.outputs import ChatMessage, MessageDelta, ToolCall, ToolCallDelta


class MessageFold:
    """Adds deltas up, and merges those that a slow reader has not taken yet.

    >>> fold = MessageFold()
    >>> fold.add(MessageDelta(content="你"))
    >>> fold.add(MessageDelta(content="好"))
    >>> fold.take().content, fold.take().content, fold.message().content
    ('你好', '', '你好')
    """

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_Call] = []
        self._new = MessageDelta()

    def add(self, delta: MessageDelta) -> None:
        """Append what is new."""
        if delta.content:
            self._content.append(delta.content)
            self._new.content += delta.content
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
            self._new.reasoning += delta.reasoning
        for piece in delta.tool_calls:
            self._add_call(piece)

    def take(self) -> MessageDelta:
        """What was added since the last call, the pieces of one call merged into one."""
        new, self._new = self._new, MessageDelta()
        return new

    def message(self) -> ChatMessage:
        """Everything so far."""
        calls = [ToolCall(call.id, call.name, "".join(call.arguments)) for call in self._calls]
        return ChatMessage("".join(self._content), "".join(self._reasoning), calls)

    @property
    def has_news(self) -> bool:
        return bool(self._new)

    def _add_call(self, piece: ToolCallDelta) -> None:
        if piece.index == len(self._calls):
            assert piece.id and piece.name, "the first piece of a call brings its id and name"
            self._calls.append(_Call(piece.id, piece.name))
        self._calls[piece.index].arguments.append(piece.arguments)
        last = self._new.tool_calls[-1] if self._new.tool_calls else None
        if last is not None and last.index == piece.index:
            last.arguments += piece.arguments
        else:
            self._new.tool_calls.append(ToolCallDelta(piece.index, piece.id, piece.name, piece.arguments))


class _Call:
    """One call, its arguments in pieces."""

    def __init__(self, id_: str, name: str) -> None:
        self.id, self.name = id_, name
        self.arguments: list[str] = []
