"""The client leaves: the engine stops working for it and its KV blocks come back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from carrel.host import EngineHost
from carrel.stats import SchedulerStats
from server_threads import wait_for
from serving import open_request

LONG = {"max_tokens": 180, "ignore_eos": True, "temperature": 0}


def scheduler(host: EngineHost) -> SchedulerStats:
    return host.loop.stats().scheduler


def free_blocks(host: EngineHost) -> list[int]:
    return [cache.num_free_blocks for cache in scheduler(host).kv_caches.values()]


def idle(host: EngineHost) -> bool:
    return host.loop.stats().num_open == 0


MESSAGES = [{"role": "user", "content": "你好"}]
GENERATIONS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**LONG, "messages": MESSAGES, "n": 2},
    "/v1/completions": {**LONG, "prompt": ["你", "山"]},
    "/v1/responses": {"input": "你好", "max_output_tokens": 180, "ignore_eos": True},
    "/api/chat": {"model": "tiny-chat", "messages": MESSAGES, "options": {"num_predict": 180, "temperature": 0}},
    "/api/generate": {"model": "tiny-chat", "prompt": "你好", "options": {"num_predict": 180, "temperature": 0}},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", list(GENERATIONS))
def test_generation_ends_with_its_client(url: str, host: EngineHost, path: str, stream: bool) -> None:
    wait_for(lambda: idle(host))
    before, generated = free_blocks(host), scheduler(host).num_generated_tokens
    body = {**GENERATIONS[path], "stream": stream}
    connections = [open_request(url, path, body) for _ in range(8)]
    wait_for(lambda: host.loop.stats().num_open >= 8)
    if stream:
        assert connections[0].recv(100).startswith(b"HTTP/1.1 200")
    for connection in connections:
        connection.close()
    wait_for(lambda: idle(host), seconds=5)
    assert free_blocks(host) == before
    assert scheduler(host).num_generated_tokens - generated < 8 * 180, "nobody waited for the rest"


def test_the_blocks_are_free_within_a_step(url: str, host: EngineHost) -> None:
    """Counted in steps of the engine from the moment at which it is told."""
    wait_for(lambda: idle(host))
    told: list[int] = []
    abort = host.loop.abort

    def watched(request_ids: Iterable[str]) -> None:
        told.append(scheduler(host).num_steps)
        abort(request_ids)

    host.loop.abort = watched  # type: ignore[method-assign]
    try:
        connection = open_request(url, "/v1/completions", {**LONG, "prompt": "河", "stream": True})
        connection.recv(100)
        connection.close()
        wait_for(lambda: idle(host))
    finally:
        host.loop.abort = abort  # type: ignore[method-assign]
    assert scheduler(host).num_steps - told[0] <= 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [f"{i} " + "长文 " * 60 for i in range(400)]}),
        ("/rerank", {"query": "a", "documents": [f"{i} " + "长文 " * 60 for i in range(400)]}),
        ("/pooling", {"model": "tiny-embed", "input": [f"{i} " + "长文 " * 60 for i in range(400)]}),
        ("/api/embed", {"model": "tiny-embed", "input": [f"{i} " + "长文 " * 60 for i in range(400)]}),
        ("/score", {"text_1": "a", "text_2": [f"{i} " + "长文 " * 60 for i in range(400)]}),
    ],
)
def test_pooling_ends_with_its_client(url: str, host: EngineHost, path: str, body: dict[str, Any]) -> None:
    wait_for(lambda: idle(host))
    pooled = scheduler(host).num_pooled_tokens
    connection = open_request(url, path, body)
    wait_for(lambda: host.loop.stats().num_open > 0)
    connection.close()
    wait_for(lambda: idle(host), seconds=10)
    assert scheduler(host).num_pooled_tokens - pooled < 400 * 50, "most of the inputs were never computed"


def test_the_others_go_on(url: str, client: httpx.Client) -> None:
    body: dict[str, Any] = {"prompt": "山上的房子", "max_tokens": 40, "ignore_eos": True, "temperature": 0}
    expected = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    leaver = open_request(url, "/v1/completions", {**body, "max_tokens": 180, "stream": True})
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        leaver.close()
        rest = [line for line in lines if line.startswith("data: {")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in [first, *rest]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected


def test_a_stream_that_nobody_reads(url: str, host: EngineHost, client: httpx.Client) -> None:
    """It takes no more than its tokens; the others, and the end of the server, do not wait for it."""
    wait_for(lambda: idle(host))
    body = {**LONG, "prompt": ["河"] * 12, "n": 2, "logprobs": 5, "stream": True}
    lazy = open_request(url, "/v1/completions", body, receive_buffer=4096)
    assert client.post("/v1/completions", json={"prompt": "山", "max_tokens": 4}).status_code == 200
    wait_for(lambda: idle(host), seconds=60)
    lazy.close()
    assert client.post("/v1/completions", json={"prompt": "山", "max_tokens": 4}).status_code == 200
