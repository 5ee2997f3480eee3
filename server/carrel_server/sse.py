"""Server-sent events, byte by byte as the clients split them. Knows frames; does not know chats.

A frame is ``data: `` + one line of JSON + LF LF. Never CRLF (Dify splits on LF LF), never comment lines, and at the end
``data: [DONE]``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from carrel_server.disconnect import until_disconnect
from carrel_server.errors import HttpError, describe
from carrel_server.json_response import dumps

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold the stream back
}


class Closable(Protocol):
    async def aclose(self) -> None: ...


def frame(event: Any) -> bytes:
    """
    >>> frame({"a": 1})
    b'data: {"a":1}\\n\\n'
    """
    return b"data: " + dumps(event) + b"\n\n"


class EventStream(Response):
    """Sends events as they come, and an error as an event. However it ends, ``source`` is closed.

    Another format of stream says how it writes one event, an error, and its end.
    """

    stream_headers: Mapping[str, str] = HEADERS
    last: bytes = DONE

    def __init__(self, events: AsyncGenerator[Any, None], source: Closable) -> None:
        super().__init__(headers=self.stream_headers)
        del self.headers["content-length"]
        self._events = events
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await until_disconnect(receive, self._send_all(send))
            except ClientDisconnect:
                return
            except HttpError as error:
                await _send(send, self.encode_error(error) + self.last)
                await _end(send)

    def encode(self, event: Any) -> bytes:
        return frame(event)

    def encode_error(self, error: Exception) -> bytes:
        return self.encode(describe(error)[1])

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    await _send(send, self.encode(event))
            except Exception as error:  # the HTTP edge: the status is sent already, so the error becomes an event
                logger.warning("A stream ended by an error.", exc_info=error)
                await _send(send, self.encode_error(error))
        if self.last:
            await _send(send, self.last)
        await _end(send)


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
