"""``/v1/completions`` in full: log probabilities of the prompt, best_of, beams, forms, ids, and streams of all that."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import openai
import pytest

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
PROMPT = "山上的房子 is old. 😀"


def complete(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={**GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def tokens(client: httpx.Client, prompt: str) -> list[int]:
    ids: list[int] = client.post("/tokenize", json={"prompt": prompt, "model": "tiny-chat"}).json()["tokens"]
    return ids


def stream(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/completions", json={**GREEDY, "stream": True, **fields}) as answer:
        assert answer.status_code == 200, answer.read()
        events = [part.removeprefix(b"data: ") for part in answer.read().split(b"\n\n") if part]
    assert events.pop() == b"[DONE]"
    return [json.loads(event) for event in events]


def joined(events: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The choices that the chunks of a stream add up to."""
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        for chunk in event["choices"]:
            whole = choices.setdefault(chunk["index"], {"index": chunk["index"], "text": "", "logprobs": None})
            whole["text"] += chunk["text"]
            for name, column in (chunk["logprobs"] or {}).items():
                whole["logprobs"] = whole["logprobs"] or {}
                whole["logprobs"].setdefault(name, []).extend(column)
            whole.setdefault("token_ids", []).extend(chunk.get("token_ids") or [])
            for name in ("prompt_token_ids", "finish_reason", "stop_reason"):
                if chunk.get(name) is not None:
                    assert name not in whole, "said once"
                    whole[name] = chunk[name]
    return choices


def test_the_prompt_alone(client: httpx.Client) -> None:
    for prompt in (PROMPT, tokens(client, PROMPT)):
        answer = complete(client, prompt=prompt, echo=True, max_tokens=0)
        assert [choice["text"] for choice in answer["choices"]] == [PROMPT]
        assert answer["choices"][0]["finish_reason"] == "length" and answer["choices"][0]["logprobs"] is None
        assert answer["usage"]["completion_tokens"] == 0
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == len(tokens(client, PROMPT))


def test_the_log_probabilities_of_the_prompt(client: httpx.Client) -> None:
    ids = tokens(client, PROMPT)
    choice = complete(client, prompt=PROMPT, echo=True, logprobs=3)["choices"][0]
    logprobs = choice["logprobs"]
    assert {len(column) for column in logprobs.values()} == {len(ids) + 6}
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    columns = [logprobs[name][1:] for name in ("tokens", "token_logprobs", "top_logprobs")]
    for token, logprob, top in zip(*columns, strict=True):
        assert top[token] == logprob and len(top) <= 4  # fewer when tokens that are half a character look the same
    alone = complete(client, prompt=PROMPT, echo=True, logprobs=3, max_tokens=0)["choices"][0]["logprobs"]
    for name, column in alone.items():
        assert column[1:] == pytest.approx(logprobs[name][1 : len(ids)]) if name == "token_logprobs" else True
        assert len(column) == len(ids)


def test_what_was_generated_is_as_likely_when_it_is_read(client: httpx.Client) -> None:
    answer = complete(client, prompt=PROMPT, logprobs=1, return_token_ids=True)["choices"][0]
    again = [*answer["prompt_token_ids"], *answer["token_ids"]]
    read = complete(client, prompt=again, echo=True, logprobs=1, max_tokens=0)["choices"][0]["logprobs"]
    assert read["token_logprobs"][-6:] == pytest.approx(answer["logprobs"]["token_logprobs"], abs=1e-4)


@pytest.mark.parametrize("logprobs", [None, 0, 2])
@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 6])
def test_streamed_is_whole(client: httpx.Client, logprobs: int | None, echo: bool, max_tokens: int) -> None:
    if not max_tokens and not echo:
        return
    fields: dict[str, Any] = {"prompt": [PROMPT, "读者"], "n": 2, "echo": echo, "logprobs": logprobs}
    fields |= {"return_token_ids": True, "max_tokens": max_tokens}
    whole = complete(client, **fields)
    events = stream(client, **fields, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    for usage in (events[-1]["usage"], whole["usage"]):
        del usage["prompt_tokens_details"]  # the second call finds the first one's prompts in the cache
    assert events[-1]["usage"] == whole["usage"]
    choices = joined(events)
    assert sorted(choices) == [0, 1, 2, 3]
    for expected in whole["choices"]:
        got = choices[expected["index"]]
        for name in ("text", "token_ids", "prompt_token_ids", "finish_reason"):
            assert got[name] == expected[name], name
        assert (got["logprobs"] is None) == (expected["logprobs"] is None)
        if expected["logprobs"] is not None:
            assert got["logprobs"]["tokens"] == expected["logprobs"]["tokens"]
            assert got["logprobs"]["text_offset"] == expected["logprobs"]["text_offset"]
            assert got["logprobs"]["token_logprobs"] == pytest.approx(expected["logprobs"]["token_logprobs"], abs=1e-4)


def test_the_last_chunk_says_why_and_nothing_else(client: httpx.Client) -> None:
    events = stream(client, prompt=PROMPT, stop=["绝无"], echo=True)
    texts = [event["choices"][0]["text"] for event in events]
    assert texts[0] == PROMPT and texts[-1] == "" and all(texts[:-1])
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}


def test_usage_in_every_chunk(client: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [event["usage"]["completion_tokens"] for event in stream(client, prompt="a", stream_options=options)]
    assert counts == sorted(counts) and counts[-1] == 6


def test_half_a_character_at_the_end_of_the_prompt(client: httpx.Client) -> None:
    """The prompt's bytes never come out as generated text, streamed or whole."""
    whole = "河水😀"
    ids = tokens(client, whole)
    for cut in range(1, len(ids)):
        prompt = ids[:cut]
        text = complete(client, prompt=prompt)["choices"][0]["text"]
        streamed = joined(stream(client, prompt=prompt))[0]["text"]
        assert streamed == text
        assert not text.startswith("河")
        echoed = complete(client, prompt=prompt, echo=True)["choices"][0]["text"]
        assert echoed.endswith(text) and len(echoed) >= len(text)


def test_the_prompts_log_probabilities_in_vllms_shape(client: httpx.Client) -> None:
    choice = complete(client, prompt=PROMPT, prompt_logprobs=2)["choices"][0]
    ids = tokens(client, PROMPT)
    assert len(choice["prompt_logprobs"]) == len(ids) and choice["prompt_logprobs"][0] is None
    for token_id, position in zip(ids[1:], choice["prompt_logprobs"][1:], strict=True):
        assert set(position[str(token_id)]) == {"logprob", "rank", "decoded_token"}
        assert 2 <= len(position) <= 3
    assert choice["logprobs"] is None
    assert "prompt_logprobs" not in complete(client, prompt=PROMPT)["choices"][0]


def test_tokens_as_ids(client: httpx.Client) -> None:
    fields = {"prompt": PROMPT, "logprobs": 1, "return_tokens_as_token_ids": True, "return_token_ids": True}
    choice = complete(client, **fields)["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
    assert choice["prompt_token_ids"] == tokens(client, PROMPT)


def test_the_best_of_several(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"prompt": "河水", "temperature": 1.0, "seed": 5, "logprobs": 0}
    every = complete(client, **fields, n=4)
    best = complete(client, **fields, n=2, best_of=4)
    assert len(best["choices"]) == 2
    assert best["usage"]["completion_tokens"] == every["usage"]["completion_tokens"] == 24
    means = sorted((sum(choice["logprobs"]["token_logprobs"]) for choice in every["choices"]), reverse=True)
    assert [sum(choice["logprobs"]["token_logprobs"]) for choice in best["choices"]] == pytest.approx(
        means[:2], abs=1e-3
    )


def test_beams(client: httpx.Client) -> None:
    fields = {"prompt": ["河水", "读者"], "use_beam_search": True, "n": 3, "max_tokens": 4, "logprobs": 1}
    answer = complete(client, **fields)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    scores = [sum(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"][:3]]
    assert scores == sorted(scores, reverse=True)
    greedy = complete(client, prompt="河水", max_tokens=4, logprobs=1)["choices"][0]["logprobs"]["token_logprobs"]
    assert scores[0] >= sum(greedy) - 1e-4
    echoed = complete(client, **{**fields, "logprobs": None}, echo=True)["choices"]
    assert [e["text"] for e in echoed[:3]] == ["河水" + choice["text"] for choice in answer["choices"][:3]]


def test_biased_and_allowed_tokens(client: httpx.Client) -> None:
    wanted = tokens(client, "水")[0]
    for fields in ({"logit_bias": {str(wanted): 100}}, {"allowed_token_ids": [wanted]}):
        assert complete(client, prompt="a", return_token_ids=True, **fields)["choices"][0]["token_ids"] == [wanted] * 6


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_choice": ["是的", "不是"]},
        {"structured_outputs": {"choice": ["是的", "不是"]}},
        {"guided_regex": "是的|不是"},
    ],
)
def test_forms(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = complete(client, prompt=["可以吗?", "b"], **fields, ignore_eos=False, max_tokens=20)
    assert {choice["text"] for choice in answer["choices"]} <= {"是的", "不是"}
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}


def test_a_json_schema(client: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"书": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["书"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {**schema, "additionalProperties": False}}}
    choice = complete(client, prompt="a", response_format=form, ignore_eos=False, max_tokens=60)["choices"][0]
    assert list(json.loads(choice["text"])) == ["书"]


def test_a_long_prompt_is_cut_only_where_that_was_asked(client: httpx.Client) -> None:
    ids = tokens(client, PROMPT)
    answer = complete(client, prompt=PROMPT, truncate_prompt_tokens=3, return_token_ids=True, echo=True)
    choice = answer["choices"][0]
    assert choice["prompt_token_ids"] == ids[-3:] and answer["usage"]["prompt_tokens"] == 3
    back = client.post("/detokenize", json={"model": "tiny-chat", "tokens": ids[-3:]}).json()["prompt"]
    assert choice["text"].startswith(back)
    refused = client.post("/v1/completions", json={"prompt": "河水 " * 4000})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    assert complete(client, prompt="河水 " * 4000, truncate_prompt_tokens=-1)["usage"]["completion_tokens"] == 6


def test_stop_strings_and_their_reason(client: httpx.Client) -> None:
    wanted = tokens(client, "水")[0]
    fields = {"prompt": "a", "allowed_token_ids": [wanted], "stop": ["水水"]}
    choice = complete(client, **fields)["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", "水水")
    kept = joined(stream(client, **fields, include_stop_str_in_output=True))[0]
    assert (kept["text"], kept["stop_reason"]) == ("水水", "水水")


def test_the_openai_client(url: str) -> None:
    with openai.OpenAI(base_url=url + "/v1", api_key="none") as client:
        answer = client.completions.create(model="tiny-chat", prompt=PROMPT, echo=True, logprobs=2, max_tokens=3)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.token_logprobs is not None
        assert logprobs.token_logprobs[0] is None and math.isfinite(logprobs.token_logprobs[-1])
        text = ""
        for chunk in client.completions.create(
            model="tiny-chat", prompt=[PROMPT], max_tokens=3, stream=True, echo=True
        ):
            text += chunk.choices[0].text
        assert text.startswith(PROMPT)


def test_a_callers_request_id(client: httpx.Client) -> None:
    """It names the answer; two callers may use the same one at once."""
    for _ in range(2):
        assert complete(client, prompt="a", request_id="mine")["id"] == "cmpl-mine"
