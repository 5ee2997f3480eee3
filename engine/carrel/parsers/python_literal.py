"""Turns a Python literal into JSON while it is read. JSON is taken as well: ``true`` and ``True`` are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from carrel.parsers.reader import NotACall, Reader, Steps

Write = Callable[[str], None]
MAX_DEPTH = 64
WORD = re.compile(r"[\w.+-]")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
CLOSING = {"[": "]", "(": ")", "{": "}"}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\n": "", "/": "/"}
ESCAPES |= {"0": "\0", "\\": "\\", '"': '"', "'": "'"}
HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}


def read_literal(reader: Reader, write: Write, depth: int = 0) -> Steps[None]:
    """Read one value and ``write`` it as JSON, strings as they come.

    Raises:
        NotACall: it is no literal.
    """
    first = yield from reader.peek()
    if first in ("'", '"'):
        yield from _string(reader, write)
    elif first in CLOSING:
        if depth == MAX_DEPTH:
            raise NotACall
        yield from _items(reader, write, depth + 1)
    else:
        word = yield from reader.matching(WORD)
        if not word:
            raise NotACall
        write(_word(word))


def json_text(text: str) -> str:
    """The inside of a JSON string that spells ``text``.

    >>> json_text('好"')
    '好\\\\"'
    """
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _word(word: str) -> str:
    """A number or a name. What is neither is a string that lost its quotes."""
    if word in WORDS:
        return WORDS[word]
    if NUMBER.fullmatch(word):
        return word
    try:
        return json.dumps(int(word, 0) if re.match(r"[+-]?0[xob]", word) else _decimal(word), allow_nan=False)
    except ValueError:
        return json.dumps(word, ensure_ascii=False)


def _decimal(word: str) -> float:
    return int(word) if re.fullmatch(r"[+-]?\d[\d_]*", word) else float(word)


def _items(reader: Reader, write: Write, depth: int) -> Steps[None]:
    """A list, a tuple or a dictionary."""
    opening = yield from reader.peek()
    is_object = opening == "{"
    reader.skip(1)
    write("{" if is_object else "[")
    separator = ""
    while True:
        yield from reader.space()
        if (yield from reader.optional(CLOSING[opening])):
            break
        if separator:
            yield from reader.expect(",")
            yield from reader.space()
            if (yield from reader.optional(CLOSING[opening])):
                break
        write(separator)
        if is_object:
            yield from _key(reader, write)
        yield from read_literal(reader, write, depth)
        separator = ", "
    write("}" if is_object else "]")


def _key(reader: Reader, write: Write) -> Steps[None]:
    pieces: list[str] = []
    yield from read_literal(reader, pieces.append, MAX_DEPTH)
    key = "".join(pieces)
    yield from reader.space()
    yield from reader.expect(":")
    yield from reader.space()
    write((key if key.startswith('"') else json.dumps(key)) + ": ")


def _string(reader: Reader, write: Write) -> Steps[None]:
    quote = yield from reader.peek()
    reader.skip(1)
    if (yield from reader.optional(quote * 2)):
        quote *= 3
    write('"')
    while not (yield from reader.optional(quote)):
        char = yield from reader.peek()
        if not char:
            raise NotACall
        if char == "\\":
            reader.skip(1)
            write((yield from _escape(reader)))
        elif char == quote[0]:  # of a text in three quotes
            reader.skip(1)
            write(json_text(char))
        else:
            write(json_text(_plain(reader)))
    write('"')


def _plain(reader: Reader) -> str:
    """What is there up to the next quote or backslash."""
    found = re.match(r"[^\\'\"]+|['\"]", reader.rest)
    assert found is not None, "there is a character that is no backslash"
    reader.skip(found.end())
    return found.group()


def _escape(reader: Reader) -> Steps[str]:
    """What stands behind a backslash, as JSON."""
    kind = yield from reader.peek()
    if not kind:
        raise NotACall
    reader.skip(1)
    if kind not in HEX_LENGTHS:
        return json_text(ESCAPES.get(kind, "\\" + kind))
    digits = ""
    while len(digits) < HEX_LENGTHS[kind]:
        digit = yield from reader.peek()
        if not re.fullmatch(r"[0-9a-fA-F]", digit):
            raise NotACall
        reader.skip(1)
        digits += digit
    if kind == "u":
        return "\\u" + digits  # may be half of a pair
    if int(digits, 16) > 0x10FFFF:
        raise NotACall
    return json_text(chr(int(digits, 16)))
