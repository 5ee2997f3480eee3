"""JSON out, by orjson: no pydantic, no copies of numpy arrays. Knows nothing of what it writes."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def dumps(value: Any) -> bytes:
    """One line of JSON in UTF-8; float32 arrays are written from their buffer, in the shortest exact digits."""
    return orjson.dumps(value, option=OPTIONS)


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else dumps(content)
