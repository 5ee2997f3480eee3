"""A call as a JSON object: ``{"name": …, "arguments": {…}}``. Its arguments go out as they are written."""

from __future__ import annotations

import json

from carrel.parsers.reader import NotACall, Steps
from carrel.parsers.tool_parser import ToolCallParser, unquoted

ARGUMENTS = ("arguments", "parameters")


class JsonCallParser(ToolCallParser):
    """Formats whose calls are such objects, one alone or several in a list."""

    known_names_only = False  # an object is a call only if it names a tool: for formats without a marker

    def _object(self) -> Steps[None]:
        """Read one call."""
        reader, named, early, is_first = self.reader, False, "", True
        yield from reader.expect("{")
        while not (yield from self._closes(is_first)):
            is_first = False
            key = unquoted((yield from reader.json_string()))
            yield from reader.space()
            yield from reader.expect(":")
            yield from reader.space()
            if key == "name" and not named:
                self._begin(self._checked(unquoted((yield from reader.json_string()))))
                named = True
                if early:
                    self._write(as_arguments(early))
            elif key in ARGUMENTS and not named:
                early = yield from self._value()
            elif key in ARGUMENTS and not self._has_arguments:
                yield from self._arguments()
            else:
                yield from self._value()
        if not named:
            raise NotACall
        self._end()

    def _closes(self, is_first: bool) -> Steps[bool]:
        """Read what stands between two members of an object; True if it ends instead."""
        yield from self.reader.space()
        if (yield from self.reader.optional("}")):
            return True
        if not is_first:
            yield from self.reader.expect(",")
            yield from self.reader.space()
        return False

    def _checked(self, name: str) -> str:
        if not name or (self.known_names_only and name not in self.tools):
            raise NotACall
        return name

    def _arguments(self) -> Steps[None]:
        """An object goes out as it comes; some models put it into a string, which is looked into first."""
        if (yield from self.reader.peek()) in ("{", "["):
            yield from self.reader.json_value(self._write)
        else:
            value = yield from self._value()
            if value.startswith('"') and self.reader.ended:
                unquoted(value)  # a string that the end cuts off is no arguments
            self._write(as_arguments(value))

    def _value(self) -> Steps[str]:
        pieces: list[str] = []
        yield from self.reader.json_value(pieces.append)
        return "".join(pieces)

    def _list(self) -> Steps[None]:
        """Read ``[object, object, …]``: at least one."""
        yield from self.reader.expect("[")
        yield from self._members()

    def _members(self) -> Steps[None]:
        """Read the rest of a list."""
        reader, num_calls = self.reader, self._num_calls
        yield from reader.space()
        while not (yield from reader.optional("]")):
            yield from self._object()
            yield from reader.space()
            if (yield from reader.optional(",")):
                yield from reader.space()
        if num_calls == self._num_calls:
            raise NotACall


def as_arguments(value: str) -> str:
    """Arguments as JSON text of an object, where they are null or stand in a string.

    >>> as_arguments('"{}"'), as_arguments("null"), as_arguments('{"a": 1}')
    ('{}', '{}', '{"a": 1}')
    """
    if value == "null":
        return "{}"
    if value.startswith('"'):
        try:
            inner = json.loads(value, strict=False)
            return str(inner) if isinstance(json.loads(inner), dict) else value
        except ValueError:
            return value
    return value
