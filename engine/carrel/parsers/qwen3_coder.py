"""Calls as Qwen3-Coder and Qwen 3.5 write them: tags around each parameter, values as bare text.

A value's JSON type comes from the tool's schema. Text goes out as it comes, objects and lists too; of other values only
the end tells what they are.
"""

from __future__ import annotations

import ast
import json

from carrel.parsers.python_literal import Write, json_text, read_literal
from carrel.parsers.reader import NotACall, Steps
from carrel.parsers.tool_parser import ToolCallParser, num_held
from carrel.parsers.tool_set import JSON_TYPES

CALL, CALL_END, FUNCTION, FUNCTION_END = "<tool_call>", "</tool_call>", "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
TEXT_ENDS = ("\n" + PARAMETER_END, PARAMETER_END)
CONTAINERS = frozenset({"object", "array"})


class Qwen3CoderParser(ToolCallParser):
    """``<tool_call><function=name><parameter=key>value</parameter></function></tool_call>``."""

    tokens = (CALL, CALL_END)
    markers = (CALL, FUNCTION)  # some answers lack the outer tag

    def _calls(self, marker: str) -> Steps[None]:
        reader = self.reader
        if marker == CALL:
            yield from reader.space()
            yield from reader.expect(FUNCTION)
        name = yield from reader.until(">")
        yield from reader.expect(">")
        if not name.strip():
            raise NotACall
        self._begin(name.strip())
        yield from self._parameters(name.strip())
        self._end()
        yield from reader.space()
        yield from reader.optional(CALL_END)

    def _parameters(self, name: str) -> Steps[None]:
        reader, types, opening = self.reader, self.tools.types(name), "{"
        others = self.tools.other_types(name)
        yield from reader.space()
        while (yield from reader.optional(PARAMETER)):
            key = yield from reader.until(">")
            yield from reader.expect(">")
            yield from reader.optional("\n")
            self._write(f"{opening}{json.dumps(key, ensure_ascii=False)}: ")
            opening = ", "
            yield from self._value(types.get(key, others))
            yield from reader.space()
        if opening == ", ":
            self._write("}")
        if not (yield from reader.optional(FUNCTION_END)) and reader.rest[:2] != CALL_END[:2]:
            raise NotACall

    def _value(self, types: frozenset[str]) -> Steps[None]:
        reader = self.reader
        if types <= {"string", "null"}:
            yield from self._string("null" if "null" in types else "")
        elif types <= CONTAINERS | {"null"} and (yield from reader.peek()) in ("{", "["):
            yield from read_literal(reader, self._write)
            yield from reader.space()
            yield from reader.expect(PARAMETER_END)
        else:
            self._write(as_json((yield from self._whole()), types))

    def _string(self, null: str) -> Steps[None]:
        """A string; ``null``, if the schema allows that, is none."""
        if null and (yield from self.reader.optional(null)):
            if (yield from self._ends()):
                self._write(null)
                return
            self._write('"' + null)
        else:
            self._write('"')
        yield from self._pieces(lambda text: self._write(json_text(text)))
        self._write('"')

    def _whole(self) -> Steps[str]:
        pieces: list[str] = []
        yield from self._pieces(pieces.append)
        return "".join(pieces)

    def _pieces(self, write: Write) -> Steps[None]:
        """Read a value and the tag that ends it."""
        reader = self.reader
        while True:
            rest = reader.rest
            found = [place for end in TEXT_ENDS if (place := rest.find(end)) >= 0]
            length = min(found) if found else len(rest) - (0 if reader.ended else num_held(rest, TEXT_ENDS))
            reader.skip(length)
            if length:
                write(rest[:length])
            if found:
                yield from self._ends()
                return
            if reader.ended:
                raise NotACall
            yield

    def _ends(self) -> Steps[bool]:
        return (yield from self.reader.optional(TEXT_ENDS[0])) or (yield from self.reader.optional(TEXT_ENDS[1]))


def as_json(text: str, types: frozenset[str]) -> str:
    """The value that ``text`` spells, as JSON; a string if it spells none of ``types``.

    >>> as_json("12", frozenset({"integer"})), as_json("True", frozenset({"boolean"})), as_json("ja", frozenset())
    ('12', 'true', '"ja"')
    """
    found: list[tuple[str, str]] = []
    for read in (_from_json, _from_python):
        try:
            found.append(read(text.strip()))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    fitting = [spelled for spelled, kind in found if kind in types or (kind == "integer" and "number" in types)]
    if not fitting and "string" not in types:
        fitting = [spelled for spelled, _ in found]
    return fitting[0] if fitting else json.dumps(text, ensure_ascii=False)


def _from_json(text: str) -> tuple[str, str]:
    return text, _type_of(json.loads(text, parse_constant=_refuse))


def _from_python(text: str) -> tuple[str, str]:
    value = ast.literal_eval(text)
    return json.dumps(value, ensure_ascii=False, allow_nan=False), _type_of(value)


def _refuse(word: str) -> None:
    raise ValueError(word)  # NaN is no JSON


def _type_of(value: object) -> str:
    if isinstance(value, str):
        return "quoted"  # a string stands bare, so one with quotes has them in it
    return JSON_TYPES.get(type(value), "object" if isinstance(value, dict) else "array")
