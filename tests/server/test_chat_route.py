"""``/v1/chat/completions`` without streaming: what is accepted, what comes back, what is refused."""

from __future__ import annotations

import logging
import math
from typing import Any

import httpx
import pytest

MESSAGES = [{"role": "system", "content": "简短回答。"}, {"role": "user", "content": "一个读者可以借几本书?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/chat/completions", json={"messages": MESSAGES, **GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def refusal(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/chat/completions", json={"messages": MESSAGES, **GREEDY, **fields})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "BadRequestError"
    return error


def text(answer: dict[str, Any]) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_the_answers_shape(client: httpx.Client) -> None:
    answer = chat(client, model="tiny-chat")
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "tiny-chat"
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["stop_reason"] is None
    assert choice["logprobs"] is None
    assert choice["message"]["role"] == "assistant"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0


def test_the_model_may_be_left_out_or_named_by_an_alias(client: httpx.Client) -> None:
    assert chat(client)["model"] == "tiny-chat"
    assert chat(client, model="")["model"] == "tiny-chat"
    assert chat(client, model="alias/chat")["model"] == "alias/chat"


def test_greedy_is_the_same_each_time(client: httpx.Client) -> None:
    assert text(chat(client)) == text(chat(client))


def test_a_seed_fixes_the_text(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "seed": 7, "max_tokens": 16}
    assert text(chat(client, **fields)) == text(chat(client, **fields))
    assert text(chat(client, **fields)) != text(chat(client, **fields | {"seed": 8}))


def test_max_completion_tokens_is_the_newer_spelling(client: httpx.Client) -> None:
    assert chat(client, max_completion_tokens=3)["usage"]["completion_tokens"] == 3


def test_n_choices(client: httpx.Client) -> None:
    answer = chat(client, n=3, temperature=1.0, seed=1, max_tokens=5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 15
    assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1


def test_stop_string(client: httpx.Client) -> None:
    whole = text(chat(client, max_tokens=24))
    mark = whole[len(whole) // 2 :][:2]
    answer = chat(client, max_tokens=24, stop=[mark, "never-there"])
    assert text(answer) == whole[: whole.index(mark)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["stop_reason"] == mark


def test_logprobs(client: httpx.Client) -> None:
    choice = chat(client, logprobs=True, top_logprobs=3, max_tokens=4)["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 4
    for entry in content:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"], "greedy: the sampled token is the best"
        assert all(math.isfinite(top["logprob"]) and top["logprob"] <= 0 for top in entry["top_logprobs"])
    joined = bytes(byte for entry in content for byte in entry["bytes"])
    assert joined.decode(errors="replace") == choice["message"]["content"]


def test_logprobs_without_alternatives(client: httpx.Client) -> None:
    content = chat(client, logprobs=True, max_tokens=2)["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in content] == [[], []]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "你好"}]}],
        [{"role": "developer", "content": "你好"}],
        [
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "hi", "name": "Li"},
        ],
        [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "w", "arguments": '{"a": 1}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
    ],
)
def test_spellings_of_messages(client: httpx.Client, messages: list[dict[str, Any]]) -> None:
    assert chat(client, messages=messages)["choices"]


def test_parts_and_string_are_the_same_prompt(client: httpx.Client) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "借书"}]}]
    assert text(chat(client, messages=parts)) == text(chat(client, messages=[{"role": "user", "content": "借书"}]))


def test_strings_for_numbers_and_nulls(client: httpx.Client) -> None:
    answer = chat(client, temperature="0.0", max_tokens="5", top_p=None, stop=None, seed=None, n=None, tools=None)
    assert answer["usage"]["completion_tokens"] == 5


def test_a_literal_extra_body_is_unwrapped(client: httpx.Client) -> None:
    body = {"messages": MESSAGES, "temperature": 0, "extra_body": {"ignore_eos": True, "max_tokens": 6, "top_k": 5}}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["usage"]["completion_tokens"] == 6


def test_fields_that_ask_for_nothing_are_fine(client: httpx.Client) -> None:
    chat(
        client,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        logit_bias={},
        user="u",
        store=False,
        metadata={"a": "b"},
        modalities=["text"],
        parallel_tool_calls=True,
        presence_penalty=0,
        frequency_penalty=0.5,
    )


def test_an_unknown_field_is_told_once(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="carrel_server.service"):
        chat(client, streaming=True, thinking={"type": "disabled"}, reasoning_format="deepseek")
        chat(client, streaming=True)
    assert ["streaming" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", ["audio"]),
        ("prediction", {"type": "content", "content": "x"}),
        ("logits_processors", ["x"]),
        ("add_special_tokens", True),
    ],
)
def test_what_is_not_there_yet_is_refused_by_name(client: httpx.Client, field: str, value: Any) -> None:
    error = refusal(client, **{field: value})
    assert error["param"] == field
    assert error["message"].startswith(f"{field} is not supported by carrel yet")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"stop": ""}, "stop"),
        ({"model": "tiny-embed"}, "model"),
    ],
)
def test_bad_fields(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    error = refusal(client, **fields)
    assert error["param"] == param
    assert error["code"] == 400


def test_an_unknown_model_lists_those_there_are(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json={"model": "gpt-9", "messages": MESSAGES})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["type"] == "NotFoundError"
    assert "gpt-9" in error["message"] and "tiny-chat" in error["message"]


def test_a_prompt_that_is_too_long(client: httpx.Client) -> None:
    error = refusal(client, messages=[{"role": "user", "content": "很长的问题 " * 5000}])
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length" in error["message"]


def test_template_kwargs_reach_the_template(client: httpx.Client) -> None:
    chat(client, chat_template_kwargs={"enable_thinking": False}, enable_thinking=False)


def test_a_cache_salt_keeps_the_prefix_to_itself(client: httpx.Client) -> None:
    def cached(**fields: Any) -> int:
        messages = [{"role": "user", "content": "同一个很长的开头,读者都认得它。" * 4}]
        number: int = chat(client, messages=messages, **fields)["usage"]["prompt_tokens_details"]["cached_tokens"]
        return number

    assert cached(cache_salt="a") == 0
    assert cached(cache_salt="a", priority=5) > 0
    assert cached(cache_salt="b") == 0
