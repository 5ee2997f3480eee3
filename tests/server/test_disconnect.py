"""The client leaves: the engine stops working for it and its KV blocks come back."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_generation_ends_with_its_client(url: str, host: EngineHost, path: str, stream: bool) -> None:
    wait_for(lambda: idle(host))
    before, generated = free_blocks(host), scheduler(host).num_generated_tokens
    prompts: dict[str, Any] = (
        {"messages": [{"role": "user", "content": "你好"}]} if "chat" in path else {"prompt": "你"}
    )
    connections = [open_request(url, path, {**LONG, **prompts, "n": 2, "stream": stream}) for _ in range(4)]
    wait_for(lambda: host.loop.stats().num_open >= 8)
    if stream:
        assert connections[0].recv(100).startswith(b"HTTP/1.1 200")
    for connection in connections:
        connection.close()
    wait_for(lambda: idle(host), seconds=5)
    assert free_blocks(host) == before
    assert scheduler(host).num_generated_tokens - generated < 8 * 180, "nobody waited for the rest"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [f"{i} " + "长文 " * 60 for i in range(400)]}),
        ("/rerank", {"query": "a", "documents": [f"{i} " + "长文 " * 60 for i in range(400)]}),
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
