"""What every parser is: text in, in any split, pieces of a message out. The result depends on the text alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from carrel.outputs import MessageDelta


class MessageParser(Protocol):
    """Parses one answer. Made anew for each; what was pushed is never given out twice."""

    def push(self, text: str) -> MessageDelta:
        """What can be said for sure once ``text`` has come; it may hold nothing."""
        ...

    def flush(self) -> MessageDelta:
        """What was held back: the text has ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class AnswerFormat:
    """How the answer to one chat call is written: what takes it apart, and what form it is held to."""

    make_parser: Callable[[], MessageParser]  # one for each completion
    kept_special_ids: frozenset[int] = frozenset()  # special tokens that the parser looks for: they stay in the text
    thought_end: str | None = None  # the answer is, or may be, thoughts up to this text, which a form does not touch
    thought_start: str | None = None  # the answer is thoughts only if it begins so; None: it begins inside of them
    tool_grammar: str | None = None  # Lark: calls that the answer must hold, or the form that calls must have if any
    make_calls_grammar: Callable[[], str] | None = None  # calls alone: they may stand in place of a form asked for


class TextParser:
    """An answer that is nothing but text.

    >>> TextParser().push("你好").content
    '你好'
    """

    def push(self, text: str) -> MessageDelta:
        return MessageDelta(content=text)

    def flush(self) -> MessageDelta:
        return MessageDelta()
