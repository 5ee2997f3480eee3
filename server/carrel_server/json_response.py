"""JSON out, by orjson: no pydantic, no copies of numpy arrays. Knows nothing of what it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from starlette.responses import Response

T = TypeVar("T")
ENTRIES_IN_LOOP = 1000  # of an answer; a longer one is made and written in a thread, or all streams would wait
OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def dumps(value: Any) -> bytes:
    """One line of JSON in UTF-8; float32 arrays are written from their buffer, in the shortest exact digits."""
    return orjson.dumps(value, option=OPTIONS)


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else dumps(content)


async def written(make: Callable[[], Any], num_entries: int) -> JsonResponse:
    """The answer around what ``make`` gives; ``num_entries`` as of :func:`made`."""
    return await made(lambda: JsonResponse(make()), num_entries)


async def made(make: Callable[[], T], num_entries: int) -> T:
    """What ``make`` gives, off the event loop if it is long; ``num_entries`` is how long, roughly."""
    return make() if num_entries <= ENTRIES_IN_LOOP else await asyncio.to_thread(make)
