"""JSON in: how many values a text holds, before it becomes objects. Knows no schema and no HTTP status.

A byte of ``[[],[],[],…`` becomes a hundred bytes of memory, and while a text is read nothing else runs: so values are
counted first, which takes little of either.
"""

from __future__ import annotations

from typing import Any

import orjson

MAX_VALUES = 1_000_000  # numbers, strings and so on: token ids, mostly. Some 30 ms of reading
MAX_CONTAINERS = 100_000  # lists and objects among them
SHORTEST = 3  # bytes that a container takes at least, with its comma


class TooManyValues(ValueError):
    """The text is longer in values than in bytes."""


def loads(data: bytes) -> Any:
    """
    >>> loads(b'{"input": "a, b"}')
    {'input': 'a, b'}

    Raises:
        TooManyValues: more values, or more lists and objects, than any request needs.
        orjson.JSONDecodeError: not JSON.
    """
    if len(data) > SHORTEST * MAX_CONTAINERS and _may_be_too_many(data):
        check_count(data)
    return orjson.loads(data)


def _may_be_too_many(data: bytes) -> bool:
    """Quick, and counts what stands in strings, too."""
    containers = data.count(b"[") + data.count(b"{")
    return containers > MAX_CONTAINERS or containers + data.count(b",") > MAX_VALUES


def check_count(data: bytes) -> None:
    """
    Raises:
        TooManyValues: see :func:`loads`.
    """
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"")  # every quote that is left begins or ends a string
    position = commas = containers = 0
    while position < len(plain):
        opening = plain.find(b'"', position)
        end = len(plain) if opening < 0 else opening
        commas += plain.count(b",", position, end)
        containers += plain.count(b"[", position, end) + plain.count(b"{", position, end)
        if containers > MAX_CONTAINERS:
            raise TooManyValues(f"The body holds more than {MAX_CONTAINERS} lists and objects; send less at once.")
        if containers + commas > MAX_VALUES:
            raise TooManyValues(f"The body holds more than {MAX_VALUES} values; send less at once.")
        closing = plain.find(b'"', end + 1)
        position = len(plain) if closing < 0 else closing + 1
