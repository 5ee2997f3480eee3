"""The way in over HTTP. Sends and retries; what stands in the bodies is :mod:`carrel_client.wire`'s matter.

Each route is written once as a :class:`Call`; only sending has a sync and an async form.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import httpx
from carrel.config import Task
from carrel.outputs import RerankResult

from carrel_client import wire
from carrel_client.backend import EmbedOptions, ModelInfo, Piece, Prompt, Reply, RerankOptions, TextRequest
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
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._infos: dict[tuple[Task, str | None], ModelInfo] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        self._client.close()

    async def aclose(self) -> None:
        self._client.close()
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

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

    def tokenize(self, prompt: Prompt, model: str | None) -> list[int]:
        body = wire.tokenize_body(prompt, self._name("chat", model))
        return self._send(Call("POST", "/tokenize", body, wire.tokenize_reply))

    def generate(self, request: TextRequest) -> Reply:
        return self._send(self._text_call(request, self._name("chat", request.model)))

    async def agenerate(self, request: TextRequest) -> Reply:
        return await self._asend(self._text_call(request, await self._aname("chat", request.model)))

    def embed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]:
        return self._send(self._embed_call(texts, options, self._name("embedding", options.model)))

    async def aembed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]:
        return await self._asend(self._embed_call(texts, options, await self._aname("embedding", options.model)))

    def rerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]:
        return self._send(self._rerank_call(query, documents, options, self._name("rerank", options.model)))

    async def arerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]:
        name = await self._aname("rerank", options.model)
        return await self._asend(self._rerank_call(query, documents, options, name))

    def _info_call(self, task: Task, model: str | None) -> Call[ModelInfo]:
        return Call("GET", "/v1/models", None, lambda answer: wire.model_reply(answer, task, model))

    def _text_call(self, request: TextRequest, name: str) -> Call[Reply]:
        return Call("POST", wire.text_path(request), wire.text_body(request, name, stream=False), wire.text_reply)

    def _embed_call(self, texts: Sequence[str], options: EmbedOptions, name: str) -> Call[list[list[float]]]:
        return Call("POST", "/v1/embeddings", wire.embed_body(texts, options, name), wire.embed_reply)

    def _rerank_call(
        self, query: str, documents: Sequence[str], options: RerankOptions, name: str
    ) -> Call[list[RerankResult]]:
        body = wire.rerank_body(query, documents, options, name)
        return Call("POST", "/v1/rerank", body, lambda answer: wire.rerank_reply(answer, documents))

    def _name(self, task: Task, model: str | None) -> str:
        return model or self.info(task, None).name

    async def _aname(self, task: Task, model: str | None) -> str:
        return model or (await self.ainfo(task, None)).name

    # Sending

    def _send(self, call: Call[T]) -> T:
        for pause in [*self._pauses, None]:
            try:
                response = self._client.request(call.method, call.path, json=call.body)
            except httpx.TransportError as error:
                if pause is None:
                    raise self._unreachable(error) from error
            else:
                if pause is None or response.status_code not in BUSY:
                    return call.read(_checked(response.status_code, response.content))
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _asend(self, call: Call[T]) -> T:
        for pause in [*self._pauses, None]:
            try:
                response = await self._async_client().request(call.method, call.path, json=call.body)
            except httpx.TransportError as error:
                if pause is None:
                    raise self._unreachable(error) from error
            else:
                if pause is None or response.status_code not in BUSY:
                    return call.read(_checked(response.status_code, response.content))
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def stream(self, request: TextRequest) -> Generator[Piece, None, None]:
        body = wire.text_body(request, self._name("chat", request.model), stream=True)
        decoder, reader = EventDecoder(), wire.StreamReader()
        try:
            with self._client.stream("POST", wire.text_path(request), json=body) as response:
                if response.is_error:
                    _checked(response.status_code, response.read())
                for chunk in response.iter_bytes():
                    yield from reader.pieces(decoder.feed(chunk))
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        yield self._stream_end(reader)

    async def astream(self, request: TextRequest) -> AsyncGenerator[Piece, None]:
        body = wire.text_body(request, await self._aname("chat", request.model), stream=True)
        decoder, reader = EventDecoder(), wire.StreamReader()
        try:
            async with self._async_client().stream("POST", wire.text_path(request), json=body) as response:
                if response.is_error:
                    _checked(response.status_code, await response.aread())
                async for chunk in response.aiter_bytes():
                    for piece in reader.pieces(decoder.feed(chunk)):
                        yield piece
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        yield self._stream_end(reader)

    def _stream_end(self, reader: wire.StreamReader) -> Piece:
        if not reader.complete:
            raise ServerUnreachableError(f"The server at {self.root} broke the answer off.")
        return reader.end()

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachableError:
        if isinstance(error, httpx.ReadTimeout):
            return ServerUnreachableError(f"The server at {self.root} did not answer in time; raise timeout=.")
        return ServerUnreachableError(
            f"No connection to {self.root} ({error or type(error).__name__}); is `carrel serve` running there?"
        )

    def _async_client(self) -> httpx.AsyncClient:
        """The pool of this event loop: connections cannot move from one loop to another."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._async_clients:
                self._async_clients[loop] = httpx.AsyncClient(**self._options)
            return self._async_clients[loop]


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
