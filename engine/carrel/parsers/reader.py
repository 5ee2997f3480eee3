"""Reads text that comes in pieces as if it were whole. Knows no format.

A parser is a generator that asks a :class:`Reader` for the next characters and is suspended (``yield``) while they are
not there yet. It sees the same characters in the same order whatever the pieces are, so its result cannot depend on
them.

::

    text:    used        | read, and not used yet | not read
             (forgotten)   mark                     pos
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]  # runs on when more text has come; returns a T

SPACE = " \t\r\n"
JSON_EVENT = re.compile(r'["\\{}\[\]\x00-\x1f]')  # what a reader of JSON must look at
SCALAR_END = re.compile(r"[,}\]\s]")


class NotACall(Exception):  # a signal inside of the parsers, no error of anybody
    """The text does not go on as a call does."""


class Reader:
    """One text. ``mark`` … ``pos`` is what was read and may turn out to be plain text."""

    def __init__(self) -> None:
        self._text = ""
        self._mark = self._pos = 0
        self.ended = False

    def append(self, text: str) -> None:
        """More of the text."""
        self._text = self._text[self._mark :] + text
        self._pos -= self._mark
        self._mark = 0

    def settle(self) -> str:
        """What was read since the last call; it is used now."""
        read = self._text[self._mark : self._pos]
        self._mark = self._pos
        return read

    @property
    def rest(self) -> str:
        """What has come and was not read."""
        return self._text[self._pos :]

    def skip(self, length: int) -> None:
        """Read characters of ``rest``."""
        self._pos += length

    def peek(self) -> Steps[str]:
        """The next character, not read; "" at the end of the text."""
        while self._pos == len(self._text):
            if self.ended:
                return ""
            yield
        return self._text[self._pos]

    def space(self) -> Steps[None]:
        """Read white space."""
        while (char := (yield from self.peek())) and char in SPACE:
            self._pos += 1

    def optional(self, word: str) -> Steps[bool]:
        """Read ``word`` if it is next."""
        while True:
            rest = self._text[self._pos : self._pos + len(word)]
            if rest == word:
                self._pos += len(word)
                return True
            if not word.startswith(rest):
                return False
            if self.ended:
                self._pos += len(rest)  # a word that the end cuts off is read, and is not the word
                return False
            yield

    def expect(self, word: str) -> Steps[None]:
        """Read ``word``, or raise :class:`NotACall`."""
        if not (yield from self.optional(word)):
            raise NotACall

    def until(self, *ends: str, limit: int = 256) -> Steps[str]:
        """Read up to the first of ``ends``, which stays. For names: short, and on one line.

        Raises:
            NotACall: none comes.
        """
        while True:
            found = [place for end in ends if (place := self._text.find(end, self._pos)) >= 0]
            word = self._text[self._pos : min(found)] if found else self.rest
            if self.ended and not found:
                self._pos = len(self._text)
                raise NotACall
            if len(word) > limit or "\n" in word:
                raise NotACall
            if found:
                self._pos = min(found)
                return word
            yield

    def matching(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Read the characters that ``pattern``, a set of characters, matches."""
        word = ""
        while (char := (yield from self.peek())) and pattern.match(char):
            word += char
            self._pos += 1
        return word

    def json_string(self) -> Steps[str]:
        """Read a JSON string, quotes and all, as it is spelled."""
        pieces: list[str] = []
        yield from self.expect('"')
        self._pos -= 1
        yield from self.json_value(pieces.append)
        spelled = "".join(pieces)
        if len(spelled) < 2 or not spelled.endswith('"'):
            raise NotACall
        return spelled

    def json_value(self, write: Callable[[str], None]) -> Steps[None]:
        """Read one JSON value and ``write`` it as it comes. Looks at strings and brackets, and lets the rest be; but
        line breaks and the like in strings, which models forget to escape, are escaped."""
        first = yield from self.peek()
        if first in ("", ",", ":", "}", "]"):
            raise NotACall
        if first not in ('"', "{", "["):
            yield from self._scalar(write)
            return
        depth, quoted = 0, False
        while True:
            start = self._pos
            while (event := JSON_EVENT.search(self._text, self._pos)) is not None:
                self._pos = event.end()
                char = event.group()
                if char == "\\":
                    if self._pos == len(self._text):  # what it escapes has not come
                        break
                    self._pos += 1
                elif char == '"':
                    quoted = not quoted
                elif char < " ":
                    if quoted:
                        write(self._text[start : self._pos - 1] + json.dumps(char)[1:-1])
                        start = self._pos
                elif not quoted:
                    depth += 1 if char in "{[" else -1
                if depth == 0 and not quoted:
                    write(self._text[start : self._pos])
                    return
            waits = event is not None and not self.ended
            self._pos = len(self._text) - (1 if waits else 0)
            if start < self._pos:
                write(self._text[start : self._pos])
            if self.ended:
                return
            yield

    def _scalar(self, write: Callable[[str], None]) -> Steps[None]:
        while (char := (yield from self.peek())) and not SCALAR_END.match(char):
            self._pos += 1
            write(char)
