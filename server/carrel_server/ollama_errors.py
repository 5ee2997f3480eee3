"""Errors of ``/api/…`` in Ollama's shape. Knows how an error is written; what is an error, others have said.

Routes, the API key and every other layer answer with OpenAI's object; on the way out of ``/api/…`` its message alone
stays: ``{"error": "model 'x' not found"}``.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carrel_server.json_response import dumps

PREFIX = "/api/"


class OllamaErrors:
    """Layer around the API key and the routes: answers over 400 to ``/api/…`` get the other shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_ollama(scope):
            await self.app(scope, receive, send)
            return
        held: list[Message] = []

        async def translate(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                held.append(message)
            elif held:
                start = held.pop()
                body = as_ollama(message.get("body", b""))
                await send({**start, "headers": with_length(start["headers"], len(body))})
                await send({**message, "body": body})
            else:
                await send(message)

        await self.app(scope, receive, translate)


def is_ollama(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).startswith(PREFIX)


def as_ollama(body: bytes) -> bytes:
    """
    >>> as_ollama(b'{"error":{"message":"no","code":404}}')
    b'{"error":"no"}'
    """
    try:
        error: Any = orjson.loads(body)["error"]
        return dumps({"error": error["message"]})
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body


def with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]
