"""Calls as Mistral's models write them: ``[TOOL_CALLS][{"name": …, "arguments": {…}}]``, and since 2025
``[TOOL_CALLS]name[ARGS]{…}`` or ``[TOOL_CALLS]name{…}``. Their ids are nine letters and digits."""

from __future__ import annotations

import re
import secrets
import string

from carrel.parsers.json_call import JsonCallParser
from carrel.parsers.reader import NotACall, Steps

MARK, ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
NAME = re.compile(r"[\w.:/-]")


class MistralParser(JsonCallParser):
    """A list of objects, or names each followed by its arguments."""

    markers = (MARK,)
    tokens = (MARK, ID, ARGS)

    def _calls(self, marker: str) -> Steps[None]:
        yield from self.reader.space()
        first = yield from self.reader.peek()
        if first == "[":
            yield from self._list()
        elif first == "{":
            yield from self._object()
        else:
            yield from self._named()

    def _named(self) -> Steps[None]:
        name = yield from self.reader.matching(NAME)
        yield from self.reader.space()
        if (yield from self.reader.optional(ID)):
            yield from self.reader.matching(NAME)
        has_mark = yield from self.reader.optional(ARGS)
        yield from self.reader.space()
        if not name or not (has_mark or (yield from self.reader.peek()) == "{"):
            raise NotACall
        self._begin(name)
        yield from self.reader.json_value(self._write)
        self._end()

    def _make_id(self) -> str:
        return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
