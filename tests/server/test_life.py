"""A server's life: it answers while models load, lets requests finish when it ends, and ends with its engine."""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from carrel.async_llm import AsyncLLM
from carrel.config import EngineConfig, ModelSpec
from carrel.errors import EngineDeadError, WeightsError
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from carrel_server.app import open_app
from carrel_server.http_protocol import IgnoreUpgradeProtocol
from carrel_server.http_server import CarrelServer
from server_threads import running, wait_for
from serving import open_request, own_server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 2}


class Life:
    """One server in a thread of its own, with an engine that comes when ``gate`` is opened."""

    def __init__(
        self, make_host: Callable[[], EngineHost], settings: ServerSettings, shutdown_timeout: float, buffer: int
    ) -> None:
        self.gate = threading.Event()
        self.app = create_app(None, settings)
        self.listener = socket.socket()
        if buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        config = uvicorn.Config(self.app, http=IgnoreUpgradeProtocol, ws="none", lifespan="off", log_level="critical")

        def load() -> EngineHost:
            assert self.gate.wait(60)
            return make_host()

        self.server = CarrelServer(
            config,
            self.app.state.readiness,
            load=load,
            on_ready=lambda host: open_app(self.app, AsyncLLM(host=host)),
            shutdown_timeout=shutdown_timeout,
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def status(self, path: str) -> int:
        return httpx.get(self.url + path).status_code


@contextmanager
def life(
    make_host: Callable[[], EngineHost],
    *,
    settings: ServerSettings | None = None,
    shutdown_timeout: float = 20.0,
    send_buffer: int = 0,
) -> Iterator[Life]:
    made = Life(make_host, settings or ServerSettings(), shutdown_timeout, send_buffer)
    try:
        yield made
    finally:
        made.gate.set()
        made.signal()
        made.signal()
        made.thread.join(20)
        made.listener.close()
    assert not made.thread.is_alive()


@pytest.fixture
def make_host(tiny_models: Callable[[str], Path]) -> Iterator[Callable[[], EngineHost]]:
    hosts: list[EngineHost] = []

    def make() -> EngineHost:
        specs = [ModelSpec(name=str(tiny_models("qwen2"))), ModelSpec(name=str(tiny_models("bert-mean")))]
        hosts.append(EngineHost(specs, EngineConfig(device="cpu", kv_cache_memory_bytes=4 << 20)))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def test_while_models_load(make_host: Callable[[], EngineHost]) -> None:
    with life(make_host) as one:
        assert one.status("/health/live") == 200
        for path in ("/health", "/health/ready"):
            assert one.status(path) == 503
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("GET", "/x"),
        ):
            answer = httpx.request(method, one.url + path, json=CHAT)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["message"] == "The models are still loading; try again in a moment."
            assert answer.headers["x-request-id"]
        ollama = httpx.post(one.url + "/api/chat", json=CHAT)
        assert ollama.status_code == 503 and isinstance(ollama.json()["error"], str)
        one.gate.set()
        wait_for(lambda: one.status("/health/ready") == 200, seconds=60)
        assert httpx.post(one.url + "/v1/chat/completions", json=CHAT).status_code == 200
        assert "vllm:num_requests_running" in httpx.get(one.url + "/metrics").text


def test_the_key_is_asked_for_while_models_load(make_host: Callable[[], EngineHost]) -> None:
    with life(make_host, settings=ServerSettings(api_keys=("key",))) as one:
        assert one.status("/v1/models") == 401
        assert httpx.get(one.url + "/v1/models", headers={"Authorization": "Bearer key"}).status_code == 503


def test_a_model_that_cannot_be_loaded() -> None:
    def fail() -> EngineHost:
        raise WeightsError("The weights are damaged.")

    with life(fail) as one:
        one.gate.set()
        one.thread.join(10)
        assert not one.thread.is_alive()
        assert isinstance(one.server.error, WeightsError) and not one.server.is_loading


def test_a_signal_while_models_load(make_host: Callable[[], EngineHost]) -> None:
    with life(make_host) as one:
        begun = time.monotonic()
        one.signal()
        one.thread.join(10)
        assert not one.thread.is_alive() and time.monotonic() - begun < 5
        assert one.server.is_loading and one.server.error is None


def test_requests_may_finish(make_host: Callable[[], EngineHost]) -> None:
    """A stream and embeddings are on their way when the signal comes; both end whole, and nobody else is let in."""
    with life(make_host) as one:
        one.gate.set()
        wait_for(lambda: one.status("/health/ready") == 200, seconds=60)
        statuses: list[int] = []
        inputs = [f"{i} " + "长文 " * 60 for i in range(300)]
        embed = threading.Thread(
            target=lambda: statuses.append(
                httpx.post(one.url + "/v1/embeddings", json={"input": inputs}, timeout=60).status_code
            )
        )
        body = {**CHAT, "max_tokens": 180, "n": 4, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", one.url + "/v1/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            embed.start()
            wait_for(lambda: one.app.state.readiness.num_running == 2)
            one.signal()
            wait_for(lambda: one.server.should_exit)
            assert one.status("/health/ready") == 503
            assert one.status("/health/live") == 200
            late = httpx.post(one.url + "/v1/chat/completions", json=CHAT)
            assert late.status_code == 503 and late.headers["connection"] == "close"
            assert "is ending" in late.json()["error"]["message"]
            rest = [line for line in lines if line]
        embed.join(60)
        assert rest[-1] == "data: [DONE]" and "error" not in "".join(rest)
        assert statuses == [200]
        one.thread.join(20)
        assert not one.thread.is_alive() and one.server.error is None


def test_the_end_of_the_time_to_finish(make_host: Callable[[], EngineHost]) -> None:
    with life(make_host, shutdown_timeout=0.2) as one:
        one.gate.set()
        wait_for(lambda: one.status("/health/ready") == 200, seconds=60)
        body = {**CHAT, "max_tokens": 180, "n": 60, "ignore_eos": True}
        plain = open_request(one.url, "/v1/chat/completions", body)
        half_a_body = open_request(one.url, "/v1/chat/completions", {})
        half_a_body.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        stream = open_request(one.url, "/v1/chat/completions", {**body, "stream": True})
        wait_for(lambda: one.app.state.readiness.num_running == 3)
        one.signal()
        one.thread.join(15)
        assert not one.thread.is_alive()
        assert b"503 Service Unavailable" in read(plain)
        assert b"503 Service Unavailable" in read(half_a_body)
        assert b'"code":503' in read(stream)


def test_a_reader_that_stops_does_not_hold_the_end_up(make_host: Callable[[], EngineHost]) -> None:
    with life(make_host, shutdown_timeout=0.2, send_buffer=4096) as one:
        one.gate.set()
        wait_for(lambda: one.status("/health/ready") == 200, seconds=60)
        body = {"prompt": ["河"] * 12, "max_tokens": 100, "n": 2, "logprobs": 5, "ignore_eos": True, "stream": True}
        lazy = open_request(one.url, "/v1/completions", body, receive_buffer=4096)
        assert one.server.host is not None
        loop = one.server.host.loop
        wait_for(lambda: loop.stats().scheduler.num_generated_tokens > 0)
        wait_for(lambda: loop.stats().num_open == 0, seconds=60)
        assert one.app.state.readiness.num_running == 1, "it has not read its answer"
        one.signal()
        one.thread.join(10)
        assert not one.thread.is_alive()
        lazy.close()


def read(connection: socket.socket) -> bytes:
    answer = b""
    while data := connection.recv(65536):
        answer += data
    connection.close()
    return answer


def test_a_dead_engine_ends_the_server(make_host: Callable[[], EngineHost]) -> None:
    with life(make_host) as one:
        one.gate.set()
        wait_for(lambda: one.status("/health/ready") == 200, seconds=60)
        assert one.server.host is not None
        one.server.host.loop.fail(EngineDeadError("Rank 1 is gone."))
        one.thread.join(10)
        assert not one.thread.is_alive()
        assert isinstance(one.server.error, EngineDeadError) and "Rank 1 is gone" in str(one.server.error)


def test_a_dead_engine_in_another_app(tiny_models: Callable[[str], Path]) -> None:
    """Who runs the app himself learns it from the health routes."""
    with own_server(tiny_models("qwen2")) as (engine, url):
        engine.loop.fail(EngineDeadError("Rank 1 is gone."))
        assert httpx.get(url + "/health/live").status_code == 503
        assert httpx.get(url + "/health/ready").status_code == 503
        assert httpx.post(url + "/v1/chat/completions", json=CHAT).status_code == 503


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "carrel_server.access"]


def test_a_line_for_each_request(host: EngineHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carrel_server.access")
    settings = ServerSettings(access_log="json", api_keys=("secret-key",))
    body = {**CHAT, "model": "tiny-chat", "ignore_eos": True, "max_tokens": 3}
    with running(create_app(AsyncLLM(host=host), settings)) as url:
        headers = {"Authorization": "Bearer secret-key", "X-Request-Id": "trace-7"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            answer = client.post("/v1/chat/completions?token=abc", json=body)
            assert answer.headers["x-request-id"] == "trace-7"
            with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
                stream.read()
            client.post("/v1/embeddings", json={"input": ["私密", "words"]})
            assert client.get("/v1/nothing", headers={"X-Request-Id": "a b\tc" * 50}).status_code == 404
            httpx.get(url + "/v1/models", headers={"Authorization": "Bearer wrong-key"})
            leaver = open_leaver(url)
            wait_for(lambda: host.loop.stats().num_open > 0)
            leaver.close()
            wait_for(lambda: len(lines_of(caplog)) == 6)
    for secret in ("secret-key", "wrong-key", "token=", "私密", "你好"):
        assert secret not in caplog.text
    whole, streamed, embedded, missing, refused, left = map(json.loads, lines_of(caplog))
    assert whole["id"] == "trace-7" and whole["time"]
    for line in (whole, streamed):
        assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/chat/completions", 200)
        assert (line["model"], line["completion_tokens"]) == ("tiny-chat", 3)
        assert line["prompt_tokens"] > 0 and 0 < line["ttft"] <= line["seconds"]
    assert embedded["model"] == "tiny-embed" and embedded["prompt_tokens"] > 0 and "ttft" not in embedded
    assert missing["status"] == 404 and missing["id"].startswith("req-")
    assert refused["status"] == 401 and "model" not in refused
    assert left["status"] == 499


def open_leaver(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    data = json.dumps({"prompt": "河", "max_tokens": 180, "n": 8, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nx-api-key: secret-key\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_text_lines_and_none(host: EngineHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carrel_server.access")
    with running(create_app(AsyncLLM(host=host))) as url:
        httpx.get(url + "/health%0afake?x=1", headers={"X-Request-Id": "abc"})
        wait_for(lambda: bool(lines_of(caplog)))
    (line,) = lines_of(caplog)
    assert line.startswith('abc "GET /health%0afake" 404 seconds=')
    caplog.clear()
    with running(create_app(AsyncLLM(host=host), ServerSettings(silent_paths=("/health",), root_path="/llm"))) as url:
        httpx.get(url + "/health")
        httpx.get(url + "/llm/health")
        httpx.get(url + "/version")
        wait_for(lambda: bool(lines_of(caplog)))
    assert len(lines_of(caplog)) == 1
    caplog.clear()
    with running(create_app(AsyncLLM(host=host), ServerSettings(access_log="none"))) as url:
        assert httpx.get(url + "/health").headers["x-request-id"].startswith("req-")
    assert lines_of(caplog) == []


def test_requests_are_counted_by_route(url: str, client: httpx.Client) -> None:
    client.get("/v1/models")
    client.get("/v1/models/tiny-chat")
    client.get("/strange/path/of/somebody")
    text = client.get("/metrics").text
    assert 'http_requests_total{handler="/v1/models/{name:path}",method="GET",status="2xx"}' in text
    assert 'http_requests_total{handler="none",method="GET",status="4xx"}' in text
    assert "http_request_duration_seconds_bucket" in text and "strange" not in text
