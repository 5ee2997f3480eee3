"""Models, tokens, health, version, metrics."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families


def test_models_carry_their_task(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    tasks = {card["id"]: card["task"] for card in answer["data"]}
    expected = {"tiny-chat": "chat", "alias/chat": "chat", "tiny-embed": "embedding", "tiny-rerank": "rerank"}
    assert tasks == expected
    for card in answer["data"]:
        assert card["object"] == "model" and card["max_model_len"] > 0 and card["created"] > 0
    cards = {card["id"]: card for card in answer["data"]}
    assert cards["tiny-embed"]["embedding_dim"] > 0
    assert cards["tiny-rerank"]["score_range"] == [0.0, 1.0]
    assert cards["tiny-rerank"]["reranker_kind"] == "cross-encoder"
    assert cards["tiny-embed"]["reranker_kind"] == "bi-encoder"
    assert cards["tiny-embed"]["matryoshka"] is False and cards["tiny-embed"]["prompts"] == []
    assert {"completion", "chat"} <= set(cards["tiny-chat"]["capabilities"])
    assert cards["tiny-embed"]["capabilities"] == ["embedding", "rerank"]
    assert cards["tiny-rerank"]["capabilities"] == ["rerank", "classify"]
    assert cards["alias/chat"]["root"] == cards["tiny-chat"]["root"]


def test_one_model(client: httpx.Client) -> None:
    assert client.get("/v1/models/alias/chat").json()["id"] == "alias/chat"
    answer = client.get("/v1/models/nobody")
    assert answer.status_code == 404
    assert "tiny-chat" in answer.json()["error"]["message"]


def test_tokenize_and_back(client: httpx.Client) -> None:
    text = "图书馆里有一张小书桌 😀"
    answer = client.post("/tokenize", json={"model": "tiny-chat", "prompt": text, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] > 0
    back = client.post("/detokenize", json={"model": "tiny-chat", "tokens": answer["tokens"]}).json()
    assert back == {"prompt": text}


def test_tokenize_messages_counts_what_a_chat_counts(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "你好"}]
    count = client.post("/tokenize", json={"messages": messages}).json()["count"]
    usage = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()["usage"]
    assert count == usage["prompt_tokens"]


TOOLS = [{"type": "function", "function": {"name": "find_book", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize(
    "fields",
    [
        {"continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"tools": TOOLS, "tool_choice": "required"},
    ],
)
def test_tokenize_counts_what_changes_a_chat(client: httpx.Client, fields: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "你好"}]}], **fields}
    answer = client.post("/tokenize", json={**body, "return_token_strs": True})
    assert answer.status_code == 200, answer.text
    usage = client.post("/v1/chat/completions", json={**body, "max_tokens": 1}).json()["usage"]
    assert answer.json()["count"] == len(answer.json()["token_strs"]) == usage["prompt_tokens"]


def test_a_text_with_special_tokens_and_without(client: httpx.Client) -> None:
    body = {"model": "tiny-embed", "prompt": "河水"}
    counts = [client.post("/tokenize", json={**body, "add_special_tokens": f}).json()["count"] for f in (True, False)]
    assert counts[0] == counts[1] + 2


def test_tokenize_refusals(client: httpx.Client) -> None:
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": []}),
        ("/tokenize", {"messages": []}),
        ("/tokenize", {"messages": [{"role": "user"}], "tools": [5]}),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1 }}"}),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "model": "tiny-embed"}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": ["a"]}),
    ):
        assert client.post(path, json=body).status_code == 400, body


def test_health_and_version(client: httpx.Client) -> None:
    from carrel._version import __version__

    for path in ("/health", "/health/live", "/health/ready"):
        assert client.get(path).status_code == client.head(path).status_code == 200
    assert client.get("/version").json() == {"version": __version__}


def metrics(client: httpx.Client) -> dict[tuple[str, str], float]:
    """(sample name, its model) → value, summed over the other labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    result: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name, sample.labels.get("model_name", ""))
            result[key] = result.get(key, 0.0) + sample.value
    return result


def test_metrics_count_what_was_done(client: httpx.Client) -> None:
    before = metrics(client)
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 7, "ignore_eos": True}
    client.post("/v1/chat/completions", json=body).raise_for_status()
    with client.stream("POST", "/v1/completions", json={"prompt": "a", "max_tokens": 5, "stream": True}) as answer:
        answer.read()
    client.post("/v1/embeddings", json={"input": ["a", "b"]}).raise_for_status()
    client.post("/rerank", json={"query": "a", "documents": ["b", "c", "d"]}).raise_for_status()
    after = metrics(client)

    def grown(name: str, model: str = "tiny-chat") -> float:
        return after[(name, model)] - before.get((name, model), 0.0)

    assert grown("vllm:request_success_total") == 2
    assert 8 <= grown("vllm:generation_tokens_total") <= 12
    assert grown("vllm:prompt_tokens_total") > 0
    assert grown("vllm:time_to_first_token_seconds_count") == 2
    assert grown("vllm:e2e_request_latency_seconds_count") == 2
    assert grown("carrel:pooling_items_total", "tiny-embed") == 2
    assert grown("carrel:pooling_items_total", "tiny-rerank") == 3
    assert ("vllm:num_requests_running", "tiny-chat") in after
    assert ("vllm:kv_cache_usage_perc", "tiny-chat") in after


def test_names_that_dashboards_read(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 3, "ignore_eos": True, "n": 2}
    before = metrics(client)
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    after = metrics(client)
    counts = {name: after[key] - before.get(key, 0) for key in after if (name := key[0]).endswith("_count")}
    for name in (
        "prefill_time_seconds",
        "decode_time_seconds",
        "inference_time_seconds",
        "params_n",
        "queue_time_seconds",
    ):
        assert counts[f"vllm:request_{name}_count"] == 1, name
    names = {name for name, _ in after}
    for name in ("vllm:cache_config_info", "process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert name in names
    assert {"http_requests_total", "http_request_duration_seconds_bucket"} <= names
