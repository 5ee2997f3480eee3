"""Calls as DeepSeek V3, R1 and V3.1 write them, between tokens of their own."""

from __future__ import annotations

from carrel.parsers.reader import Steps
from carrel.parsers.tool_parser import ToolCallParser

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END, SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


class DeepSeekParser(ToolCallParser):
    """V3: ``type SEP name ⏎ ```json ⏎ {…} ⏎ ``` ``; V3.1: ``name SEP {…}``. The text tells which it is."""

    markers = (CALLS_BEGIN, CALL_BEGIN)
    tokens = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEP)

    def _calls(self, marker: str) -> Steps[None]:
        reader = self.reader
        if marker == CALLS_BEGIN:
            yield from reader.space()
            yield from reader.expect(CALL_BEGIN)
        yield from self._call()
        yield from reader.space()
        while (yield from reader.optional(CALL_BEGIN)):
            yield from self._call()
            yield from reader.space()
        yield from reader.optional(CALLS_END)

    def _call(self) -> Steps[None]:
        reader = self.reader
        head = yield from reader.until(SEP)
        yield from reader.expect(SEP)
        if (yield from reader.peek()) == "{":
            self._begin(head.strip())
            yield from reader.json_value(self._write)
        else:
            self._begin((yield from reader.until("\n")).strip())
            yield from reader.space()
            yield from reader.optional("```json")
            yield from reader.space()
            yield from reader.json_value(self._write)
            yield from reader.space()
            yield from reader.optional("```")
        self._end()
        yield from reader.space()
        yield from reader.optional(CALL_END)
