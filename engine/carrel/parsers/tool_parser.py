"""What all parsers of tool calls share: text goes out until a call begins, then its name, then its arguments.

Knows how pieces become a :class:`MessageDelta`; does not know how any model writes a call. What turns out not to be a
call is text again, to the last character. White space around calls is part of neither.
"""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence

from carrel.outputs import MessageDelta, ToolCallDelta
from carrel.parsers.reader import NotACall, Reader, Steps
from carrel.parsers.tool_set import ToolSet


class ToolCallParser(ABC):
    """One answer. A format says which ``markers`` begin calls, and reads what comes after one in ``_calls``."""

    markers: Sequence[str] = ()  # texts that begin a call wherever they stand
    tokens: tuple[str, ...] = ()  # texts that may be special tokens and must be seen
    openers = ""  # characters that may begin a call where nothing but calls came before

    def __init__(self, tools: ToolSet) -> None:
        self.tools = tools
        self.reader = Reader()
        self._delta = MessageDelta()
        self._edge = True  # nothing but calls and white space so far
        self._edge_space = ""
        self._num_calls = 0
        self._open = False  # a call's name is out, its end has not come
        self._has_arguments = False
        self._steps = self._parse()
        next(self._steps, None)

    def push(self, text: str) -> MessageDelta:
        """See :class:`~carrel.parsers.base.MessageParser`."""
        self.reader.append(text)
        next(self._steps, None)
        return self._take()

    def flush(self) -> MessageDelta:
        """See :class:`~carrel.parsers.base.MessageParser`."""
        self.reader.ended = True
        next(self._steps, None)
        if self._edge_space and not self._num_calls:
            self._delta.content += self._edge_space
        return self._take()

    @abstractmethod
    def _calls(self, marker: str) -> Steps[None]:
        """Read the calls behind ``marker`` ("" at an opener, which is not read yet).

        Raises:
            NotACall: the text does not go on as a call does.
        """

    # -- what formats write

    def _begin(self, name: str) -> None:
        """A call of ``name``: from now on it is one, whatever comes.

        Raises:
            NotACall: there is no name.
        """
        if not name:
            raise NotACall
        self.reader.settle()
        self._edge, self._edge_space = True, ""
        self._open, self._has_arguments = True, False
        self._delta.tool_calls.append(ToolCallDelta(self._num_calls, self._make_id(), name))
        self._num_calls += 1

    def _write(self, fragment: str) -> None:
        """JSON text that continues the open call's arguments."""
        assert self._open, "arguments belong to a call"
        self.reader.settle()
        self._has_arguments = True
        last = self._delta.tool_calls[-1] if self._delta.tool_calls else None
        if last is not None:
            last.arguments += fragment
        else:
            self._delta.tool_calls.append(ToolCallDelta(self._num_calls - 1, arguments=fragment))

    def _end(self) -> None:
        """The open call is whole."""
        if not self._has_arguments:
            self._write("{}")
        self.reader.settle()
        self._open = False

    def _make_id(self) -> str:
        return f"call_{secrets.token_hex(12)}"

    # -- text and calls in turn

    def _parse(self) -> Steps[None]:
        while (marker := (yield from self._until_marker())) is not None:
            try:
                yield from self._calls(marker)
                if (behind := self.reader.settle()).isspace():
                    self._text(behind)
            except NotACall:
                self._give_up()

    def _give_up(self) -> None:
        """No call, or one that breaks off: what was read of it and not used is text. The end of all text breaks
        off a call, too, and leaves nothing but its syntax."""
        broken = self.reader.settle()
        if not (self._open and self.reader.ended):
            self._text(broken)
        self._open = False

    def _until_marker(self) -> Steps[str | None]:
        """Let text out up to a marker and read that; None at the end. "" before an opener at the edge."""
        while True:
            rest = self.reader.rest
            if not rest and not self.reader.ended:
                yield
                continue
            if self._edge and (space := len(rest) - len(rest.lstrip())):
                self._pass_text(space)
                continue
            if self._edge and rest and rest[0] in self.openers:
                return ""
            found = [(place, marker) for marker in self.markers if (place := rest.find(marker)) >= 0]
            if found:
                place, marker = min(found)
                self._pass_text(place)
                self.reader.skip(len(marker))
                return marker
            self._pass_text(len(rest) - (0 if self.reader.ended else num_held(rest, self.markers)))
            if self.reader.ended:
                return None
            yield

    def _pass_text(self, length: int) -> None:
        self.reader.skip(length)
        self._text(self.reader.settle())

    def _text(self, text: str) -> None:
        if self._edge and (not text or text.isspace()):
            self._edge_space += text
            return
        self._delta.content += self._edge_space + text
        self._edge, self._edge_space = False, ""

    def _take(self) -> MessageDelta:
        delta, self._delta = self._delta, MessageDelta()
        return delta


def num_held(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of a marker.

    >>> num_held("a <tool", ["<tool_call>"])
    5
    """
    held = 0
    for marker in markers:
        place = text.find(marker[0], max(0, len(text) - len(marker) + 1))
        while place >= 0:
            if marker.startswith(text[place:]):
                held = max(held, len(text) - place)
                break
            place = text.find(marker[0], place + 1)
    return held


def unquoted(spelled: str) -> str:
    """The text that a JSON string spells.

    Raises:
        NotACall: it is none.
    """
    try:
        value = json.loads(spelled, strict=False)
    except ValueError:
        raise NotACall from None
    assert isinstance(value, str), "a JSON string begins with a quote"
    return value
