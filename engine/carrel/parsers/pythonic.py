"""Calls as Llama 3.2, Llama 4 and others write them in Python: ``[f(a=1), g(b="x")]``."""

from __future__ import annotations

import json
import re

from carrel.parsers.python_literal import read_literal
from carrel.parsers.reader import NotACall, Steps
from carrel.parsers.tool_parser import ToolCallParser

NAME = re.compile(r"[\w.:/-]")
KEY = re.compile(r"[^\s=,()\[\]{}'\"]")  # any name of a parameter, though Python would not take it


class PythonicParser(ToolCallParser):
    """A list of calls of known tools at the beginning of the answer, or of any between Llama 4's tags."""

    markers = ("<|python_start|>",)
    tokens = ("<|python_start|>", "<|python_end|>")
    openers = "["

    def _calls(self, marker: str) -> Steps[None]:
        reader, num_calls = self.reader, self._num_calls
        yield from reader.space()
        yield from reader.expect("[")
        yield from reader.space()
        while not (yield from reader.optional("]")):
            name = yield from reader.matching(NAME)
            if not name or not (marker or name in self.tools):
                raise NotACall
            yield from self._call(name)
            yield from reader.space()
            if (yield from reader.optional(",")):
                yield from reader.space()
        if num_calls == self._num_calls:
            raise NotACall
        if marker:
            yield from reader.space()
            yield from reader.optional("<|python_end|>")

    def _call(self, name: str) -> Steps[None]:
        reader, opening = self.reader, "{"
        yield from reader.expect("(")
        self._begin(name)
        while True:
            yield from reader.space()
            if (yield from reader.optional(")")):
                break
            if opening == ", ":
                yield from reader.expect(",")
                yield from reader.space()
                if (yield from reader.optional(")")):
                    break
            yield from self._argument(opening)
            opening = ", "
        if opening == ", ":
            self._write("}")
        self._end()

    def _argument(self, opening: str) -> Steps[None]:
        key = yield from self.reader.matching(KEY)
        yield from self.reader.space()
        if not key:
            raise NotACall
        yield from self.reader.expect("=")
        yield from self.reader.space()
        self._write(f"{opening}{json.dumps(key, ensure_ascii=False)}: ")
        yield from read_literal(self.reader, self._write)
