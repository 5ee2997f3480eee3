"""A stream of JSON lines, as Ollama sends it. Knows lines; does not know chats.

A line is one JSON object + LF. There is no last mark: the object with ``"done": true`` is the last one.
"""

from __future__ import annotations

from typing import Any

from carrel_server.errors import describe
from carrel_server.json_response import dumps
from carrel_server.sse import HEADERS, EventStream


class LineStream(EventStream):
    """As :class:`EventStream`, in lines. An error in mid-stream is a line ``{"error": "…"}``."""

    stream_headers = {**HEADERS, "Content-Type": "application/x-ndjson"}  # noqa: RUF012  # read only
    last = b""

    def encode(self, event: Any) -> bytes:
        return dumps(event) + b"\n"

    def encode_error(self, error: Exception) -> bytes:
        return self.encode({"error": describe(error)[1]["error"]["message"]})
