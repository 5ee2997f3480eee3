"""Finds stop strings in text that comes in pieces. Knows no tokens.

Held back is only the longest end of the text that is the beginning of a stop string; all else goes out at once. The
result does not depend on how the text is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches one text.

    >>> watch = StopStrings(["###"])
    >>> watch.push("a#"), watch.push("b ##"), watch.push("#c"), watch.matched
    ('a', '#b ', '', '###')
    """

    def __init__(self, stop: Sequence[str], *, include_in_output: bool = False) -> None:
        assert all(stop), "SamplingParams refuses empty stop strings"
        self._stop = tuple(stop)
        self._include = include_in_output
        self._held = ""
        self.matched: str | None = None  # the stop string that ended the text

    def push(self, text: str) -> str:
        """Append text; what may go out. After a match nothing comes any more."""
        if self.matched is not None or not text:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        match = self._first_match(text)
        if match is not None:
            start, self.matched = match
            self._held = ""
            return text[: start + len(self.matched)] if self._include else text[:start]
        cut = len(text) - self._num_held(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The text that was held back: it ended without becoming a stop string."""
        text, self._held = self._held, ""
        return text

    def _first_match(self, text: str) -> tuple[int, str] | None:
        """The match that is complete first; of several that end there, the longest."""
        found = [(text.find(stop), stop) for stop in self._stop]
        matches = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if not matches:
            return None
        _, start, stop = min(matches)
        return start, stop

    def _num_held(self, text: str) -> int:
        """Length of the longest end of ``text`` that is a proper beginning of a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stop) - 1)
        for length in range(longest, 0, -1):
            end = text[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stop):
                return length
        return 0
