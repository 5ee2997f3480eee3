"""Errors as the clients of some routes read them. Knows how an error is written; what is an error, others have said.

Routes, the API key and every other layer answer with OpenAI's object. On the way out of ``/api/…`` its message alone
stays, as Ollama's clients want it: ``{"error": "model 'x' not found"}``. Clients of rerank (Jina's, and LlamaIndex's
over it, xinference's) read ``detail``, so there the message stands a second time, beside the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carrel_server.json_response import dumps

Dialect = Callable[[dict[str, Any]], Any]


class ErrorDialects:
    """Layer around the API key and the routes: answers of 400 and over to some paths get another shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        dialect = dialect_of(scope) if scope["type"] == "http" else None
        if dialect is None:
            await self.app(scope, receive, send)
            return
        held: list[Message] = []

        async def translate(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                held.append(message)
            elif held:
                start = held.pop()
                body = translated(message.get("body", b""), dialect)
                await send({**start, "headers": with_length(start["headers"], len(body))})
                await send({**message, "body": body})
            else:
                await send(message)

        await self.app(scope, receive, translate)


def dialect_of(scope: Scope) -> Dialect | None:
    """How errors of this path are written; None: as OpenAI does."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    if path.startswith("/api/"):
        return as_ollama
    return with_detail if path.endswith(("/rerank", "/reranking")) else None


def as_ollama(error: dict[str, Any]) -> Any:
    return {"error": error["message"]}


def with_detail(error: dict[str, Any]) -> Any:
    return {"error": error, "detail": error["message"]}


def translated(body: bytes, dialect: Dialect) -> bytes:
    """
    >>> translated(b'{"error":{"message":"no","code":404}}', as_ollama)
    b'{"error":"no"}'
    """
    try:
        return dumps(dialect(orjson.loads(body)["error"]))
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body


def with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]
