"""What a chat answers: words, thoughts and calls; whole and streamed they are the same."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from dictated import MARK, NAME, TOOLS, ask, assembled, choice, deltas, hermes, post, stream, thought

CALL = hermes("查天气", {"城市": "北京", "天数": 2})
TWO_CALLS = CALL + "\n" + hermes("search", {"query": "借书 😀"})
THOUGHT = thought("读者问天气,先查一查。", "北京晴。")
ALL = "<think>\n先想。\n</think>\n\n我查一下。\n" + TWO_CALLS

ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "words": ("图书馆每天九点开门😀。", {}),
    "nothing": ("", {}),
    "thoughts": (THOUGHT, {}),
    "a call": (CALL, {"tools": TOOLS}),
    "two calls": (TWO_CALLS, {"tools": TOOLS}),
    "all": (ALL, {"tools": TOOLS}),
    "tools unused": ("不用查。", {"tools": TOOLS}),
    "cut in the thoughts": (THOUGHT, {"max_tokens": 8}),
    "cut in a call": (CALL, {"tools": TOOLS, "max_tokens": 30}),
    "stopped in the thoughts": (THOUGHT, {"stop": "天气"}),
}


def function(call: dict[str, Any]) -> tuple[str, Any]:
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{**call, "id": "…"} for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls} if calls else message


@pytest.mark.parametrize("name", ANSWERS)
def test_streamed_is_the_same_as_whole(scribe: httpx.Client, name: str) -> None:
    answer, fields = ANSWERS[name]
    whole = choice(scribe, answer, **fields)
    chunks = stream(scribe, answer, **fields)
    assert without_ids(assembled(chunks)) == without_ids(whole["message"])
    last = chunks[-1]["choices"][0]
    assert {key: last[key] for key in ("finish_reason", "stop_reason")} == {
        key: whole[key] for key in ("finish_reason", "stop_reason")
    }


def test_words(scribe: httpx.Client) -> None:
    assert choice(scribe, "九点开门。")["message"] == {"role": "assistant", "content": "九点开门。", "refusal": None}


def test_no_words_are_an_empty_string(scribe: httpx.Client) -> None:
    answer = choice(scribe, "")
    assert answer["message"] == {"role": "assistant", "content": "", "refusal": None}
    assert answer["finish_reason"] == "stop"


def test_thoughts_have_both_names(scribe: httpx.Client) -> None:
    answer = post(scribe, THOUGHT)
    message = answer["choices"][0]["message"]
    assert message["content"] == "北京晴。"
    assert message["reasoning"] == message["reasoning_content"] == "读者问天气,先查一查。"
    details = answer["usage"]["completion_tokens_details"]
    assert 0 < details["reasoning_tokens"] < answer["usage"]["completion_tokens"]
    *_, usage = stream(scribe, THOUGHT, stream_options={"include_usage": True})
    assert usage["usage"]["completion_tokens_details"] == details


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning_format": "hidden"}])
def test_thoughts_can_be_left_out(scribe: httpx.Client, fields: dict[str, Any]) -> None:
    expected = {"role": "assistant", "content": "北京晴。", "refusal": None}
    assert choice(scribe, THOUGHT, **fields)["message"] == expected
    assert assembled(stream(scribe, THOUGHT, **fields)) == expected


def test_only_thoughts_still_have_a_content_of_text(scribe: httpx.Client) -> None:
    answer = choice(scribe, THOUGHT, max_tokens=6)
    assert answer["finish_reason"] == "length"
    assert answer["message"]["content"] == "" and answer["message"]["reasoning"]


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"enable_thinking": False},
        {"thinking": {"type": "disabled"}},
        {"thinking": False},
        {"reasoning_effort": "none"},
        {"model": f"{NAME}:nothink"},
        {"extra_body": {"enable_thinking": "false"}},
    ],
)
def test_without_thinking_the_answer_is_content(scribe: httpx.Client, fields: dict[str, Any]) -> None:
    """The template closes the thoughts itself, so what comes is the answer."""
    assert choice(scribe, "北京晴。", **fields)["message"] == {
        "role": "assistant",
        "content": "北京晴。",
        "refusal": None,
    }
    prompt = post(scribe, "x", **fields)["usage"]["prompt_tokens"]
    assert prompt > post(scribe, "x")["usage"]["prompt_tokens"]


def test_the_alias_is_named_in_the_answer_and_switches_both_ways(scribe: httpx.Client) -> None:
    assert post(scribe, "x", model=f"{NAME}:nothink")["model"] == f"{NAME}:nothink"
    assert choice(scribe, THOUGHT, model=f"{NAME}:think")["message"]["reasoning"]
    answer = scribe.post("/v1/chat/completions", json={"model": "nobody:nothink", "messages": ask("x")})
    assert answer.status_code == 404 and answer.json()["error"]["type"] == "NotFoundError"


def test_the_effort_reaches_the_template(scribe: httpx.Client) -> None:
    fields = {"return_token_ids": True, "reasoning_effort": "low"}
    ids = post(scribe, "x", **fields)["prompt_token_ids"]
    text = scribe.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert "effort=low" in text


def test_a_call(scribe: httpx.Client) -> None:
    answer = choice(scribe, CALL, tools=TOOLS)
    assert answer["finish_reason"] == "tool_calls" and answer["stop_reason"] is None
    message = answer["message"]
    assert message["content"] is None
    (call,) = message["tool_calls"]
    assert set(call) == {"id", "type", "function"} and call["type"] == "function"
    assert re.fullmatch(r"[\w-]{6,}", call["id"])
    assert function(call) == ("查天气", {"城市": "北京", "天数": 2})


def test_calls_side_by_side(scribe: httpx.Client) -> None:
    calls = choice(scribe, TWO_CALLS, tools=TOOLS)["message"]["tool_calls"]
    assert [function(call)[0] for call in calls] == ["查天气", "search"]
    assert len({call["id"] for call in calls}) == 2


def test_deltas_of_calls(scribe: httpx.Client) -> None:
    """``deltas`` and ``assembled`` check the shape of each; here their order."""
    pieces = [piece for delta in deltas(stream(scribe, TWO_CALLS, tools=TOOLS)) for piece in delta["tool_calls"]]
    assert [piece["index"] for piece in pieces] == sorted(piece["index"] for piece in pieces)
    assert [piece["index"] for piece in pieces if "id" in piece] == [0, 1]
    assert sum("id" not in piece for piece in pieces) > 4, "arguments come as they are written"


def test_thoughts_words_and_calls_in_one_answer(scribe: httpx.Client) -> None:
    message = choice(scribe, ALL, tools=TOOLS)["message"]
    assert message["reasoning"] == "先想。"
    assert message["content"].strip() == "我查一下。"
    assert len(message["tool_calls"]) == 2


def test_no_calls_when_none_may_be_made(scribe: httpx.Client) -> None:
    answer = choice(scribe, CALL, tools=TOOLS, tool_choice="none")
    assert "tool_calls" not in answer["message"]
    assert answer["finish_reason"] == "stop"


def test_length_outranks_calls(scribe: httpx.Client) -> None:
    answer = choice(scribe, CALL, tools=TOOLS, max_tokens=30)
    assert answer["finish_reason"] == "length"


def test_one_call_at_most_without_parallel_calls(scribe: httpx.Client) -> None:
    calls = choice(scribe, TWO_CALLS, tools=TOOLS, parallel_tool_calls=False)["message"]["tool_calls"]
    assert len(calls) == 1


def test_the_second_turn(scribe: httpx.Client) -> None:
    """A client sends back what it got, thoughts and calls and all."""
    first = choice(scribe, ALL, tools=TOOLS)["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": f"晴 {MARK}北京零下三度。"}]}
        for call in first["tool_calls"]
    ]
    body = {"messages": [*ask(ALL), first, *results], "tools": TOOLS}
    answer = scribe.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "北京零下三度。"


def test_functions_of_long_ago(scribe: httpx.Client) -> None:
    functions = [tool["function"] for tool in TOOLS]
    answer = choice(scribe, CALL, functions=functions, function_call="auto")
    assert answer["finish_reason"] == "function_call"
    call = answer["message"]["function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("查天气", {"城市": "北京", "天数": 2})
    assert "tool_calls" not in answer["message"]
    pieces = [delta["function_call"] for delta in deltas(stream(scribe, CALL, functions=functions))]
    assert pieces[0] == {"name": "查天气", "arguments": ""}
    assert "".join(piece["arguments"] for piece in pieces) == call["arguments"]
    messages = [*ask("x"), answer["message"], {"role": "function", "name": "查天气", "content": f"{MARK}晴。"}]
    after = scribe.post("/v1/chat/completions", json={"messages": messages, "functions": functions})
    assert after.json()["choices"][0]["message"]["content"] == "晴。"


def test_several_answers_at_once(scribe: httpx.Client) -> None:
    answer = post(scribe, ALL, tools=TOOLS, n=3)
    assert [each["index"] for each in answer["choices"]] == [0, 1, 2]
    ids = [call["id"] for each in answer["choices"] for call in each["message"]["tool_calls"]]
    assert len(set(ids)) == 6
    chunks = stream(scribe, ALL, tools=TOOLS, n=3, stream_options={"include_usage": True})
    expected = without_ids(answer["choices"][0]["message"])
    assert [without_ids(assembled(chunks, index)) for index in range(3)] == [expected] * 3
    assert (
        chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]
    )


def test_logprobs_of_thoughts_and_calls(scribe: httpx.Client) -> None:
    """One entry a token, whatever became of it; streamed as whole."""
    fields: dict[str, Any] = {"tools": TOOLS, "logprobs": True, "top_logprobs": 2}
    whole = post(scribe, ALL, **fields)
    entries = whole["choices"][0]["logprobs"]["content"]
    assert len(entries) == whole["usage"]["completion_tokens"]
    assert all(set(entry) == {"token", "logprob", "bytes", "top_logprobs"} for entry in entries)
    joined = bytes(byte for entry in entries for byte in entry["bytes"])
    assert joined.decode().startswith(ALL)
    chunks = stream(scribe, ALL, **fields)
    streamed = [e for chunk in chunks for c in chunk["choices"] if c["logprobs"] for e in c["logprobs"]["content"]]
    assert [entry["bytes"] for entry in streamed] == [entry["bytes"] for entry in entries]


def test_chunks_bring_chinese_whole(scribe: httpx.Client) -> None:
    """Characters of several tokens come in one piece, and no chunk comes for a part of one."""
    pieces = [delta["content"] for delta in deltas(stream(scribe, "龘靐齉爩😀👨‍👩‍👧"))]
    assert "".join(pieces) == "龘靐齉爩😀👨‍👩‍👧"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stop_string_behind_the_thoughts(scribe: httpx.Client) -> None:
    answer = choice(scribe, thought("先想。", "一二三停四五"), stop=["停"])
    assert answer["message"]["content"] == "一二三" and answer["message"]["reasoning"] == "先想。"
    assert (answer["finish_reason"], answer["stop_reason"]) == ("stop", "停")


@pytest.mark.parametrize("mark", ["</", "<tool", "想。\n</think>\n\n。", "\n\n完", "好的再见"])
@pytest.mark.parametrize("answer", [thought("先想。", "好的。"), thought("先想。", "好<"), "我查。" + CALL])
def test_held_back_text_runs_through_the_parsers(scribe: httpx.Client, answer: str, mark: str) -> None:
    """What might become a stop string waits, and may hold tags of thoughts and calls."""
    fields = {"tools": TOOLS, "stop": mark}
    whole = choice(scribe, answer, **fields)
    assert without_ids(assembled(stream(scribe, answer, **fields))) == without_ids(whole["message"])
    if mark not in answer:
        free = choice(scribe, answer, tools=TOOLS)
        assert without_ids(whole["message"]) == without_ids(free["message"])
        assert whole["finish_reason"] == free["finish_reason"]
