"""Parts thoughts from the answer: ``<think>…</think>``. Knows one pair of tags; knows no tool calls.

Line breaks at the inner and outer edges of thoughts belong to the tags, as models are trained to write them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from carrel.outputs import MessageDelta
from carrel.parsers.base import MessageParser
from carrel.parsers.reader import Reader, Steps
from carrel.parsers.tool_parser import num_held

ThoughtState = Literal["open", "maybe", "closed"]  # how the prompt leaves it


class ThoughtParser:
    """Thoughts out of the text, and the rest to the parser behind.

    ``state`` "open": the text begins inside of thoughts; "maybe": it is thoughts if it begins with the tag.

    >>> from carrel.parsers.base import TextParser
    >>> delta = ThoughtParser(TextParser(), "maybe").push("<think>\\n嗯\\n</think>\\n\\n好")
    >>> delta.reasoning, delta.content
    ('嗯', '好')
    """

    def __init__(
        self, answer: MessageParser, state: ThoughtState, *, start: str = "<think>", end: str = "</think>"
    ) -> None:
        self._answer, self._start, self._end = answer, start, end
        self._reader = Reader()
        self._delta = MessageDelta()
        self._steps = self._parse(state)
        next(self._steps, None)

    def push(self, text: str) -> MessageDelta:
        """See :class:`~carrel.parsers.base.MessageParser`."""
        self._reader.append(text)
        return self._advance()

    def flush(self) -> MessageDelta:
        """See :class:`~carrel.parsers.base.MessageParser`."""
        self._reader.ended = True
        return self._advance(self._answer.flush)

    def _advance(self, last: Callable[[], MessageDelta] | None = None) -> MessageDelta:
        next(self._steps, None)
        if last is not None:
            self._add(last())
        delta, self._delta = self._delta, MessageDelta()
        return delta

    def _parse(self, state: ThoughtState) -> Steps[None]:
        if state == "maybe":
            yield from self._reader.space()
            state = "open" if (yield from self._reader.optional(self._start)) else "closed"
        elif state == "open":  # a model that opens them once more
            yield from self._line_breaks()
            yield from self._reader.optional(self._start)
        if state == "open":
            self._reader.settle()
            yield from self._line_breaks()
            yield from self._thoughts()
            yield from self._line_breaks()
        self._add(self._answer.push(self._reader.settle()))
        while not self._reader.ended or self._reader.rest:
            rest = self._reader.rest
            self._reader.skip(len(rest))
            self._reader.settle()
            self._add(self._answer.push(rest))
            if not self._reader.ended:
                yield

    def _thoughts(self) -> Steps[None]:
        """Let thoughts out up to their end, and read that."""
        while True:
            rest = self._reader.rest
            place = rest.find(self._end)
            if place >= 0:
                self._delta.reasoning += rest[:place].rstrip("\n")
                self._reader.skip(place + len(self._end))
                self._reader.settle()
                return
            held = 0 if self._reader.ended else num_held(rest, (self._end,))
            thought = rest[: len(rest) - held]
            shown = thought if self._reader.ended else thought.rstrip("\n")
            self._delta.reasoning += shown
            self._reader.skip(len(rest) if self._reader.ended else len(shown))
            self._reader.settle()
            if self._reader.ended:
                return
            yield

    def _line_breaks(self) -> Steps[None]:
        while (yield from self._reader.peek()) == "\n":
            self._reader.skip(1)
        self._reader.settle()

    def _add(self, delta: MessageDelta) -> None:
        self._delta.content += delta.content
        self._delta.reasoning += delta.reasoning
        self._delta.tool_calls += delta.tool_calls
