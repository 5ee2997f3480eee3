"""What every parser is: text in, in any split, pieces of a message out. The result depends on the text alone."""

from __future__ import annotations

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
