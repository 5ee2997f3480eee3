"""Calls as Llama 3 writes them: ``{"name": …, "parameters": {…}}``, several parted by semicolons."""

from __future__ import annotations

from carrel.parsers.json_call import JsonCallParser
from carrel.parsers.reader import Steps


class Llama3JsonParser(JsonCallParser):
    """Objects that name known tools at the beginning of the answer, or any behind the tag."""

    markers = ("<|python_tag|>",)
    tokens = markers
    openers = "{"

    def _calls(self, marker: str) -> Steps[None]:
        self.known_names_only = not marker
        yield from self.reader.space()
        yield from self._object()
        yield from self.reader.space()
        while (yield from self.reader.optional(";")):
            yield from self.reader.space()
            yield from self._object()
            yield from self.reader.space()
