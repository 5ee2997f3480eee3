"""The way in over HTTP. Sends and retries; what stands in the bodies is :mod:`carrel_client.wire`'s matter.

Each route is written once as a :class:`Call`; only sending has a sync and an async form.
"""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from carrel.config import Task
from carrel.outputs import RerankResult

from carrel_client import wire
from carrel_client.backend import EmbedOptions, ModelInfo, Piece, Reply, RerankOptions, TextRequest
from carrel_client.errors import ServerError, ServerRefusedError, ServerUnreachableError
from carrel_client.sse import EventDecoder

T = TypeVar("T")

DEFAULT_TIMEOUT = 600.0  # seconds: a long answer on a busy CPU takes minutes
CONNECT_TIMEOUT = 10.0
DEFAULT_RETRIES = 2
BUSY = frozenset({429, 502, 503})  # statuses after which the same request may succeed


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One exchange: where to, what with, and how to read the answer."""

    method: str
    path: str
    body: wire.Json | None
    read: Callable[[wire.Json], T]


class ServerBackend:
    """One server. One connection pool for all threads, and one for each event loop."""

    def __init__(self, base_url: str, *, api_key: str | None, timeout: float | None, max_retries: int | None) -> None:
        self.root = base_url.rstrip("/").removesuffix("/v1")
        self._options: dict[str, Any] = {
            "base_url": self.root,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            "timeout": httpx.Timeout(timeout or DEFAULT_TIMEOUT, connect=CONNECT_TIMEOUT, pool=None),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=128),  # a batch is all in flight
        }
        self._pauses = [0.2 * 2**n for n in range(DEFAULT_RETRIES if max_retries is None else max_retries)]
        self._client = httpx.Client(**self._options)
        self._async_clients: dict[asyncio.AbstractEventLoop, AsyncGenerator[httpx.AsyncClient, None]] = {}
        self._infos: dict[tuple[Task, str | None], ModelInfo] = {}
        weakref.finalize(self, self._client.close).atexit = False  # an adapter that nobody closed leaves no sockets

    def close(self) -> None:
        self._client.close()

    async def aclose(self) -> None:
        self._client.close()
        lender = self._async_clients.pop(asyncio.get_running_loop(), None)
        if lender is not None:
            await lender.aclose()

    # Routes

    def info(self, task: Task, model: str | None) -> ModelInfo:
        """Asked once for each task; later calls answer from memory."""
        if (task, model) not in self._infos:
            self._infos[task, model] = self._send(self._info_call(task, model))
        return self._infos[task, model]

    async def ainfo(self, task: Task, model: str | None) -> ModelInfo:
        if (task, model) not in self._infos:
            self._infos[task, model] = await self._asend(self._info_call(task, model))
        return self._infos[task, model]

    def tokenize(self, request: TextRequest) -> list[int]:
        body = wire.tokenize_body(request, request.model or self.info("chat", None).name)
        return self._send(Call("POST", "/tokenize", body, wire.tokenize_reply))

    def generate(self, request: TextRequest) -> Reply:
        return self._send(self._text_call(request))

    async def agenerate(self, request: TextRequest) -> Reply:
        return await self._asend(self._text_call(request))

    def embed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]:
        calls = (self._embed_call(part, options) for part in wire.embed_parts(texts))
        return [vector for call in calls for vector in self._send(call)]

    async def aembed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]:
        calls = (self._embed_call(part, options) for part in wire.embed_parts(texts))
        return [vector for call in calls for vector in await self._asend(call)]

    def rerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]:
        return self._send(self._rerank_call(query, documents, options))

    async def arerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]:
        return await self._asend(self._rerank_call(query, documents, options))

    def _info_call(self, task: Task, model: str | None) -> Call[ModelInfo]:
        return Call("GET", "/v1/models", None, lambda answer: wire.model_reply(answer, task, model))

    def _text_call(self, request: TextRequest) -> Call[Reply]:
        return Call("POST", wire.text_path(request), wire.text_body(request, stream=False), wire.text_reply)

    def _embed_call(self, texts: Sequence[str], options: EmbedOptions) -> Call[list[list[float]]]:
        return Call("POST", "/v1/embeddings", wire.embed_body(texts, options), wire.embed_reply)

    def _rerank_call(self, query: str, documents: Sequence[str], options: RerankOptions) -> Call[list[RerankResult]]:
        body = wire.rerank_body(query, documents, options)
        return Call("POST", "/v1/rerank", body, lambda answer: wire.rerank_reply(answer, documents))

    # Sending

    def _open(self, method: str, path: str, body: wire.Json | None) -> httpx.Response:
        """An answer whose head has come; asks again while the server is busy or away."""
        for pause in [*self._pauses, None]:
            try:
                response = self._client.send(self._client.build_request(method, path, json=body), stream=True)
            except httpx.TransportError as error:
                if pause is None:
                    raise self._unreachable(error) from error
            else:
                if pause is None or response.status_code not in BUSY:
                    return response
                response.close()
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _aopen(self, method: str, path: str, body: wire.Json | None) -> httpx.Response:
        client = await self._async_client()
        for pause in [*self._pauses, None]:
            try:
                response = await client.send(client.build_request(method, path, json=body), stream=True)
            except httpx.TransportError as error:
                if pause is None:
                    raise self._unreachable(error) from error
            else:
                if pause is None or response.status_code not in BUSY:
                    return response
                await response.aclose()
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _send(self, call: Call[T]) -> T:
        response = self._open(call.method, call.path, call.body)
        with closing(response), self._transport_errors():
            content = response.read()
        return call.read(_checked(response.status_code, content))

    async def _asend(self, call: Call[T]) -> T:
        response = await self._aopen(call.method, call.path, call.body)
        async with aclosing(response):
            with self._transport_errors():
                content = await response.aread()
        return call.read(_checked(response.status_code, content))

    def stream(self, request: TextRequest) -> Generator[Piece, None, None]:
        decoder, reader = EventDecoder(), wire.StreamReader()
        response = self._open("POST", wire.text_path(request), wire.text_body(request, stream=True))
        with closing(response), self._transport_errors():  # leaving it closes the connection: the server aborts
            if response.is_error:
                _checked(response.status_code, response.read())
            for chunk in response.iter_bytes():
                yield from reader.pieces(decoder.feed(chunk))
        yield self._stream_end(reader)

    async def astream(self, request: TextRequest) -> AsyncGenerator[Piece, None]:
        decoder, reader = EventDecoder(), wire.StreamReader()
        response = await self._aopen("POST", wire.text_path(request), wire.text_body(request, stream=True))
        async with aclosing(response):
            with self._transport_errors():
                if response.is_error:
                    _checked(response.status_code, await response.aread())
                async for chunk in response.aiter_bytes():
                    for piece in reader.pieces(decoder.feed(chunk)):
                        yield piece
        yield self._stream_end(reader)

    def _stream_end(self, reader: wire.StreamReader) -> Piece:
        if not reader.complete:
            raise ServerUnreachableError(f"The server at {self.root} broke the answer off.")
        return reader.end()

    @contextmanager
    def _transport_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachableError:
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerUnreachableError(f"No connection to {self.root} ({why}); is `carrel serve` running there?")
        if isinstance(error, httpx.TimeoutException):
            return ServerUnreachableError(f"The server at {self.root} did not answer in time; give more timeout=.")
        return ServerUnreachableError(f"The connection to {self.root} broke ({why}).")

    async def _async_client(self) -> httpx.AsyncClient:
        """The pool of this event loop: connections cannot move from one loop to another."""
        loop = asyncio.get_running_loop()
        for other in [other for other in self._async_clients if other.is_closed()]:
            self._async_clients.pop(other, None)
        if loop not in self._async_clients:
            self._async_clients[loop] = self._lend_client()
        return await anext(self._async_clients[loop])

    async def _lend_client(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        """A generator, because an event loop that ends closes its generators: no connection outlives its loop."""
        async with httpx.AsyncClient(**self._options) as client:
            while True:
                yield client


def _checked(status: int, content: bytes) -> wire.Json:
    """The JSON of a good answer.

    Raises:
        ServerRefusedError: status 4xx, with the server's message.
        ServerError: any other failure.
    """
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if status < 400 and isinstance(answer, dict):
        return answer
    message, code = wire.error_message(answer, f"The server answered status {status}: {content[:200]!r}")
    kind = ServerRefusedError if 400 <= status < 500 else ServerError
    raise kind(message, status=status, code=code)
