"""Whatever comes in, the answer is OpenAI's error object, and the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from carrel.async_llm import AsyncLLM
from carrel.errors import (
    CapacityError,
    EngineClosedError,
    EngineDeadError,
    ModelNotFoundError,
    OutOfMemoryError,
    QueueFullError,
    StepError,
)
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from carrel_server.errors import HttpError, LastResortMiddleware, describe
from server_threads import running
from serving import own_server


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["code"] == answer.status_code
    return error


@pytest.fixture(autouse=True)
def _still_works(client: httpx.Client) -> Iterator[None]:
    yield
    body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not json",
        b'{"messages": NaN}',
        b'{"temperature": Infinity, "messages": []}',
        b'{"a": "\xff\xfe"}',
        b'"text"',
        b"[1, 2]",
        b"null",
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/rerank"])
def test_no_json_object(client: httpx.Client, path: str, content: bytes) -> None:
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "BadRequestError"


def test_the_content_type_does_not_matter(client: httpx.Client) -> None:
    content = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/v1/chat/completions", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 404),
        ("POST", "/v1", 404),
        ("POST", "/v1/chat", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
    ],
)
def test_no_such_route(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    error = error_of(answer)
    assert path in error["message"]
    if status == 404:
        assert "/v1/chat/completions" in error["message"]
    else:
        assert answer.headers["allow"]


def test_a_body_over_the_limit(host: EngineHost) -> None:
    with running(create_app(AsyncLLM(host=host), ServerSettings(max_body_bytes=1000))) as url:
        path = url + "/v1/embeddings"
        small = httpx.post(path, json={"input": "a"})
        declared = httpx.post(path, json={"input": "a" * 2000})
        chunked = httpx.post(path, content=iter([b'{"input": "', b"a" * 2000, b'"}']))
    assert small.status_code == 200
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert "1000 bytes" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFullError("full"), 429),
        (CapacityError("can never fit"), 400),
        (OutOfMemoryError("no room"), 503),
        (HttpError(504, "too long"), 504),
        (EngineClosedError("closed"), 503),
        (EngineDeadError("out of memory at 0x7f"), 503),
        (StepError("out of memory at 0x7f"), 500),
        (ModelNotFoundError("no model"), 404),
        (AssertionError("what we believed"), 500),
    ],
)
def test_statuses(error: Exception, status: int) -> None:
    found, body = describe(error)
    assert found == status == body["error"]["code"]
    if status == 500 or isinstance(error, EngineDeadError):
        assert str(error) not in body["error"]["message"], "what went wrong inside stays inside"


def test_origins_of_browsers(host: EngineHost, client: httpx.Client) -> None:
    ask = {"Origin": "http://app.example", "Access-Control-Request-Method": "POST"}
    settings = ServerSettings(allowed_origins=("http://app.example",), api_keys=("key",))
    with running(create_app(AsyncLLM(host=host), settings)) as url:
        preflight = httpx.options(url + "/v1/chat/completions", headers=ask)
        other = httpx.options(url + "/v1/chat/completions", headers=ask | {"Origin": "http://evil.example"})
    assert preflight.headers["access-control-allow-origin"] == "http://app.example"
    assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in client.get("/health", headers=ask).headers


async def test_many_at_once(url: str) -> None:
    """Good and bad requests of every kind, all in flight together."""
    good = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 8}, 200),
        ("/v1/completions", {"prompt": "河水", "max_tokens": 8}, 200),
        ("/v1/embeddings", {"input": ["一", "two"]}, 200),
        ("/rerank", {"query": "a", "documents": ["b", "c"]}, 200),
    ]
    bad = [
        ("/v1/chat/completions", {"messages": [], "max_tokens": 8}, 400),
        ("/v1/completions", {"prompt": "x " * 20_000}, 400),
        ("/v1/embeddings", {"input": "a", "model": "nobody"}, 404),
    ]
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=80)) as client:
        jobs = [(status, client.post(path, json=body)) for path, body, status in (good + bad) * 8]
        answers = await asyncio.gather(*(job for _, job in jobs))
    assert [answer.status_code for answer in answers] == [status for status, _ in jobs]


def test_a_closed_engine_is_not_ready(tiny_models: Callable[[str], Path]) -> None:
    body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}
    with own_server(tiny_models("qwen2")) as (own, url):
        assert httpx.get(url + "/health").status_code == 200
        own.close()
        assert httpx.get(url + "/health/live").status_code == 200
        for answer in (
            httpx.get(url + "/health"),
            httpx.get(url + "/health/ready"),
            httpx.post(url + "/v1/chat/completions", json=body),
            httpx.post(url + "/v1/chat/completions", json={**body, "stream": True}),
        ):
            assert answer.status_code == 503
            assert error_of(answer)["type"] == "ServiceUnavailableError"
            assert answer.headers["retry-after"] == "1"


async def test_what_is_asked_for_makes_no_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    path = "/v1/x\nERROR: all keys were deleted"
    await LastResortMiddleware(broken)({"type": "http", "path": path, "method": "GET"}, send, send)
    assert sent[0]["status"] == 500 and b"a bug" not in sent[1]["body"]
    (line,) = caplog.messages
    assert "all keys" in line and "\n" not in line
