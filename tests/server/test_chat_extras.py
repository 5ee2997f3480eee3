"""vLLM's fields that show more of an answer: token ids, log probabilities of the prompt, an echo, the caller's id."""

from __future__ import annotations

import httpx
from dictated import WEATHER, ask, assembled, choice, post, stream


def test_echo_begins_with_what_was_there(scribe: httpx.Client) -> None:
    messages = [*ask("书。"), {"role": "assistant", "content": "我要借"}]
    fields = {"messages": messages, "add_generation_prompt": False, "continue_final_message": True, "echo": True}
    assert choice(scribe, "", **fields)["message"]["content"].startswith("我要借")
    assert assembled(stream(scribe, "", **fields))["content"].startswith("我要借")


def test_token_ids(scribe: httpx.Client) -> None:
    answer = post(scribe, "九点。", return_token_ids=True)
    ids, prompt = answer["choices"][0]["token_ids"], answer["prompt_token_ids"]
    assert len(ids) == answer["usage"]["completion_tokens"] and len(prompt) == answer["usage"]["prompt_tokens"]
    chunks = stream(scribe, "九点。", return_token_ids=True)
    assert chunks[0]["prompt_token_ids"] == prompt
    assert [i for chunk in chunks for c in chunk["choices"] for i in c.get("token_ids", ())] == ids


def test_tokens_as_ids(scribe: httpx.Client) -> None:
    fields = {"logprobs": True, "top_logprobs": 1, "return_tokens_as_token_ids": True, "return_token_ids": True}
    answer = choice(scribe, "九点。", **fields)
    assert [entry["token"] for entry in answer["logprobs"]["content"]] == [f"token_id:{i}" for i in answer["token_ids"]]


def test_prompt_logprobs(scribe: httpx.Client) -> None:
    answer = post(scribe, "九点。", prompt_logprobs=2)
    first, *others = answer["prompt_logprobs"]
    assert first is None and len(others) == answer["usage"]["prompt_tokens"] - 1
    for position in others:
        assert 2 <= len(position) <= 3
        assert all(set(entry) == {"logprob", "rank", "decoded_token"} for entry in position.values())
    assert "prompt_logprobs" not in post(scribe, "九点。")


def test_the_callers_request_id(scribe: httpx.Client) -> None:
    answers = [post(scribe, "x", request_id="订单-1") for _ in range(2)]
    assert [answer["id"] for answer in answers] == ["chatcmpl-订单-1"] * 2


def test_service_fields_are_fine(scribe: httpx.Client) -> None:
    post(
        scribe,
        "x",
        tools=None,
        functions=None,
        response_format=None,
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        prompt_cache_key="k",
        safety_identifier="s",
        modalities=["text"],
        tool_choice="auto",
        parallel_tool_calls=True,
    )


def test_a_cut_prompt_is_cut_only_when_asked(scribe: httpx.Client) -> None:
    prompt = post(scribe, "x", truncate_prompt_tokens=5)["usage"]["prompt_tokens"]
    assert prompt == 5


def test_tools_of_a_model_that_is_not_known_to_call(client: httpx.Client) -> None:
    """The tiny model of the other tests has a template without tools."""
    body = {"messages": ask("x"), "tools": [WEATHER]}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "--tool-call-parser" in answer.json()["error"]["message"]
