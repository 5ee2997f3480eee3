"""``/v1/completions``: prompts in four shapes, echo, logprobs, and what is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}


def complete(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={**GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def tokens(client: httpx.Client, prompt: str) -> list[int]:
    ids: list[int] = client.post("/tokenize", json={"prompt": prompt, "model": "tiny-chat"}).json()["tokens"]
    return ids


def test_the_answers_shape(client: httpx.Client) -> None:
    answer = complete(client, prompt="山上的房子")
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 6


def test_four_shapes_of_a_prompt(client: httpx.Client) -> None:
    first, second = "山上的房子", "Who lives here?"
    ids = [tokens(client, first), tokens(client, second)]
    many = texts(complete(client, prompt=[first, second]))
    assert many == [texts(complete(client, prompt=p))[0] for p in (first, second)]
    assert texts(complete(client, prompt=ids)) == many
    assert texts(complete(client, prompt=ids[0])) == many[:1]


def test_n_and_several_prompts(client: httpx.Client) -> None:
    answer = complete(client, prompt=["河水", "读者"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 24


def test_the_default_is_sixteen_tokens(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"prompt": "a", "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 16


def test_echo(client: httpx.Client) -> None:
    plain = texts(complete(client, prompt="河水"))[0]
    assert texts(complete(client, prompt="河水", echo=True)) == ["河水" + plain]
    assert texts(complete(client, prompt=tokens(client, "河水"), echo=True)) == ["河水" + plain]


def test_logprobs(client: httpx.Client) -> None:
    choice = complete(client, prompt="The house", logprobs=2)["choices"][0]
    logprobs = choice["logprobs"]
    assert {len(column) for column in logprobs.values()} == {6}
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    for token, logprob, top in zip(*[logprobs[k] for k in ("tokens", "token_logprobs", "top_logprobs")], strict=True):
        assert top[token] == logprob and len(top) <= 3, "the token itself stands beside the best two"
    assert logprobs["text_offset"][0] == 0


def test_best_of_equal_to_n(client: httpx.Client) -> None:
    assert len(complete(client, prompt="a", n=2, best_of=2)["choices"]) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3, "stream": True}, "best_of"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt": "a", "use_beam_search": True, "stream": True}, "use_beam_search"),
        ({"prompt": "a", "use_beam_search": True, "echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "use_beam_search": True, "truncate_prompt_tokens": 4}, "truncate_prompt_tokens"),
        ({"prompt": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"prompt": "a", "truncation_side": "right"}, "truncation_side"),
        ({"prompt": "a", "logit_bias": {"-5": 1}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"a": 1}}, "logit_bias"),
        ({"prompt": "a", "temperature": "NaN"}, "temperature"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": "a", "prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": "a", "logprobs": 99}, "logprobs"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
    ],
)
def test_bad_fields(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/completions", json={**GREEDY, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
