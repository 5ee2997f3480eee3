"""Calls as plain JSON: a list of ``{"name": …, "parameters": {…}}``, or one alone. Nothing marks them but their place.

The form of forced calls for models whose own is not known, and Phi 4's, which has a word before it.
"""

from __future__ import annotations

from carrel.parsers.json_call import JsonCallParser
from carrel.parsers.reader import Steps


class JsonListParser(JsonCallParser):
    """A list at the beginning of the answer that names known tools."""

    openers = "[{"
    known_names_only = True

    def _calls(self, marker: str) -> Steps[None]:
        if (yield from self.reader.peek()) == "[":
            yield from self._list()
        else:
            yield from self._object()


class FunctoolsParser(JsonCallParser):
    """``functools[{"name": …, "arguments": {…}}]``."""

    markers = ("functools[",)

    def _calls(self, marker: str) -> Steps[None]:
        yield from self._members()
