"""How much one request may ask for, how many there may be, and how long one may take."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from carrel.async_llm import AsyncLLM
from carrel.errors import InvalidParamsError
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from server_threads import running, wait_for
from serving import connect, open_request, own_server

LONG: dict[str, Any] = {"prompt": "河水", "max_tokens": 180, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def small(host: EngineHost) -> Iterator[str]:
    """A server with low limits."""
    settings = ServerSettings(
        max_inputs=3, max_documents=4, max_choices=2, max_stop_strings=2, body_timeout=0.4, max_body_bytes=100_000
    )
    with running(create_app(AsyncLLM(host=host), settings)) as url:
        yield url


@pytest.mark.parametrize(
    ("path", "body", "name", "flag"),
    [
        ("/v1/embeddings", {"input": ["文"] * 4}, "input", "--max-inputs"),
        ("/v1/embeddings", {"input": [[1, 2]] * 4}, "input", "--max-inputs"),
        ("/v1/completions", {"prompt": ["a"] * 4}, "prompt", "--max-inputs"),
        ("/v1/completions", {"prompt": "a", "n": 3}, "n", "--max-choices"),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, "best_of", "--max-choices"),
        ("/v1/completions", {"prompt": "a", "stop": ["a", "b", "c"]}, "stop", "--max-stop-strings"),
        ("/v1/chat/completions", {"messages": [], "n": 1e300}, "n", "--max-choices"),
        ("/v1/chat/completions", {"messages": [], "extra_body": {"n": 3}}, "n", "--max-choices"),
        ("/v1/completions", {"prompt": "a", "n": "3"}, "n", "--max-choices"),
        ("/v1/completions", {"prompt": "a", "extra_body": {"best_of": " 3.0"}}, "best_of", "--max-choices"),
        ("/api/generate", {"extra_body": {"options": {"stop": ["a"] * 3}}}, "stop", "--max-stop-strings"),
        ("/api/generate", {"options": {"extra_body": {"stop": ["a"] * 3}}}, "stop", "--max-stop-strings"),
        ("/rerank", {"query": "a", "documents": ["b"] * 5}, "documents", "--max-documents"),
        ("/rerank", {"query": "a", "texts": ["b"] * 5}, "texts", "--max-documents"),
        ("/score", {"text_1": "a", "text_2": ["b"] * 5}, "text_2", "--max-documents"),
    ],
)
def test_more_than_one_request_may_have(small: str, path: str, body: dict[str, Any], name: str, flag: str) -> None:
    answer = httpx.post(small + path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    if not path.startswith("/api/"):  # Ollama's errors are text
        assert error["param"] == name
        error = error["message"]
    assert error.startswith(f"{name}: ") and flag in error


def test_what_nobody_reads_may_be_as_deep_as_it_likes(small: str) -> None:
    body: dict[str, Any] = {}
    for _ in range(400):
        body = {"options": {"extra_body": body}}
    assert httpx.post(small + "/v1/completions", json={"prompt": "a", "max_tokens": 1, **body}).status_code == 200


def test_no_flag_raises_what_the_engine_can_do(client: httpx.Client) -> None:
    message = client.post("/v1/completions", json={"prompt": "a", "n": 129}).json()["error"]["message"]
    assert message == "n: 129 are more than the 128 that one request may have; send less at once."
    with pytest.raises(InvalidParamsError, match="max_choices must be at most 128, got 129"):
        ServerSettings(max_choices=129)


@pytest.mark.parametrize(("name", "most"), [("chat_template_kwargs", 1000), ("logit_bias", 10_000)])
def test_more_fields_than_one_object_may_have(small: str, name: str, most: int) -> None:
    body = {"messages": [], name: {str(index): 1 for index in range(most + 1)}}
    error = httpx.post(small + "/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == name and f"{most + 1} fields" in error["message"]


def test_a_list_of_token_ids_is_one_prompt(small: str) -> None:
    body = {"prompt": [5, 6, 7, 8, 9], "max_tokens": 1}
    assert httpx.post(small + "/v1/completions", json=body).status_code == 200


def test_as_many_inputs_as_openai_takes(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": ["文"] * 2048, "encoding_format": "base64"})
    assert answer.status_code == 200 and len(answer.json()["data"]) == 2048


def test_five_thousand_inputs(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": ["文"] * 5000})
    assert answer.status_code == 400 and "5000 entries" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a", "model": "m" * 50_000}),
        ("/v1/completions", {"prompt": "a", "n": "n" * 50_000}),
        ("/v1/chat/completions", {"messages": [{"role": "r" * 50_000, "content": "a"}]}),
    ],
)
def test_an_error_does_not_repeat_what_was_sent(small: str, path: str, body: dict[str, Any]) -> None:
    answer = httpx.post(small + path, json=body)
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 4000


def test_a_body_that_does_not_come(small: str) -> None:
    with connect(small) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        begun = time.monotonic()
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408") and b"within 0.4 seconds" in answer
    assert time.monotonic() - begun < 5


def test_more_than_the_queue_holds(tiny_models: Callable[[str], Path]) -> None:
    """What can never be let in is the request's fault; what waits behind others may come again."""
    with own_server(tiny_models("qwen2"), max_queued_requests=1, max_num_seqs=1) as (engine, url):
        never = httpx.post(url + "/v1/completions", json={"prompt": "a", "n": 5, "max_tokens": 1})
        assert never.status_code == 400 and "5 requests at once" in never.json()["error"]["message"]
        runs = open_request(url, "/v1/completions", LONG)
        wait_for(lambda: engine.stats().loop.scheduler.num_running == 1)
        waits = open_request(url, "/v1/completions", LONG)
        wait_for(lambda: engine.stats().loop.num_queued == 1)
        for stream in (False, True):
            refused = httpx.post(url + "/v1/completions", json={**LONG, "stream": stream})
            assert refused.status_code == 429
            assert refused.json()["error"]["type"] == "RateLimitError"
            assert refused.headers["retry-after"] == "1"
        runs.close()
        waits.close()
        wait_for(lambda: engine.stats().loop.num_open == 0)
        assert httpx.post(url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_more_at_once_than_there_may_be(tiny_models: Callable[[str], Path]) -> None:
    with own_server(tiny_models("qwen2"), settings=ServerSettings(max_concurrent_requests=1)) as (engine, url):
        first = open_request(url, "/v1/completions", LONG)
        wait_for(lambda: engine.stats().loop.num_open == 1)
        refused = httpx.get(url + "/v1/models")
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert httpx.get(url + "/health/ready").status_code == 200, "health is never refused"
        first.close()
        wait_for(lambda: httpx.get(url + "/v1/models").status_code == 200)


def test_what_can_never_fit(tiny_models: Callable[[str], Path]) -> None:
    """Longer than the KV cache, not than the context: refused at once, and for good."""
    with own_server(tiny_models("qwen2"), kv_cache_memory_bytes=100_000) as (engine, url):
        answer = httpx.post(url + "/v1/completions", json={**LONG, "prompt": "河 " * 60})
        assert answer.status_code == 400, answer.text
        assert engine.stats().loop.num_open == 0


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_time_of_a_request(tiny_models: Callable[[str], Path], path: str) -> None:
    prompt = {"messages": [{"role": "user", "content": "你好"}]} if "chat" in path else {}
    with own_server(tiny_models("qwen2"), settings=ServerSettings(request_timeout=0.05)) as (engine, url):
        body = {**LONG, **prompt, "n": 40}
        late = httpx.post(url + path, json=body)
        assert late.status_code == 504
        assert late.json()["error"]["type"] == "GatewayTimeoutError"
        wait_for(lambda: engine.stats().loop.num_open == 0)
        with httpx.stream("POST", url + path, json={**body, "stream": True}, timeout=20) as answer:
            text = answer.read().decode()
        assert answer.status_code == 504 or re.search(r'"code":504\}\}\n\ndata: \[DONE\]\n\n$', text)
        wait_for(lambda: engine.stats().loop.num_open == 0)
