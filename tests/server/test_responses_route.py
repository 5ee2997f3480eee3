"""``/v1/responses``: items in, items and events out. The model writes what it is dictated."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from dictated import MARK, NAME, WEATHER, hermes, post, refusal, thought

PATH = "/v1/responses"
TOOL = {"type": "function", **WEATHER["function"]}
CALL = hermes("查天气", {"城市": "北京", "天数": 2})
ALL = "<think>\n先想。\n</think>\n\n我查一下。\n" + CALL + "\n" + hermes("查天气", {"城市": "上海"})
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def respond(client: httpx.Client, answer: str, **fields: Any) -> dict[str, Any]:
    return post(client, answer, PATH, **fields)


def events(client: httpx.Client, answer: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, after checking each byte of the framing."""
    body = {"input": MARK + answer, "temperature": 0, **fields, "stream": True}
    with client.stream("POST", PATH, json=body) as response:
        data = b"".join(response.iter_bytes())
        assert response.status_code == 200, data
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert b"\r" not in data and data.endswith(b"\n\n")
    result = []
    for frame in data[:-2].split(b"\n\n"):
        name, line = frame.split(b"\n")
        event = json.loads(line.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        result.append(event)
    assert [event["sequence_number"] for event in result] == list(range(len(result)))
    return result


def kinds(stream: list[dict[str, Any]]) -> list[str]:
    """The kinds of the events, those that repeat once."""
    names = [event["type"] for event in stream]
    return [name for i, name in enumerate(names) if not i or names[i - 1] != name]


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    items = [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in response["output"]]
    return {**{k: v for k, v in response.items() if k not in ("id", "created_at")}, "output": items}


def test_a_response(scribe: httpx.Client) -> None:
    response = respond(scribe, "九点开门。", model=NAME, metadata={"柜台": "3"}, max_output_tokens=50)
    (item,) = response["output"]
    assert item.pop("id").startswith("msg_") and response["id"].startswith("resp_")
    part = {"type": "output_text", "text": "九点开门。", "annotations": [], "logprobs": []}
    assert item == {"type": "message", "status": "completed", "role": "assistant", "content": [part]}
    assert response["object"] == "response" and response["status"] == "completed" and response["error"] is None
    assert response["model"] == NAME and response["metadata"] == {"柜台": "3"} and response["max_output_tokens"] == 50
    assert response["store"] is False and response["previous_response_id"] is None
    assert response["temperature"] == 0 and response["top_p"] == 1
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"]["cached_tokens"] >= 0
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_thoughts_words_and_calls_are_items(scribe: httpx.Client) -> None:
    response = respond(scribe, ALL, tools=[TOOL])
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    thoughts, words, call, other = response["output"]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "先想。"}] and thoughts["summary"] == []
    assert words["content"][0]["text"].strip() == "我查一下。"
    assert (call["name"], json.loads(call["arguments"])) == ("查天气", {"城市": "北京", "天数": 2})
    assert call["call_id"] != other["call_id"] and call["id"].startswith("fc_")
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert response["tools"] == [TOOL] and response["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        ("图书馆每天九点开门😀。", {}),
        ("", {}),
        (thought("先想。", "好。"), {}),
        (thought("先想。", "好。"), {"max_output_tokens": 4}),
        (ALL, {"tools": [TOOL]}),
        (CALL, {"tools": [TOOL]}),
        ("一二三四五六七八九十", {"max_output_tokens": 4}),
    ],
)
def test_streamed_is_the_same_as_whole(scribe: httpx.Client, answer: str, fields: dict[str, Any]) -> None:
    whole = respond(scribe, answer, **fields)
    *_, last = events(scribe, answer, **fields)
    assert last["type"] == f"response.{whole['status']}"
    streamed = last["response"]
    for response in (whole, streamed):
        del response["usage"]["input_tokens_details"]  # the second one finds more in the cache
    assert without_ids(streamed) == without_ids(whole)


def test_events_of_text(scribe: httpx.Client) -> None:
    stream = events(scribe, "九点开门。")
    assert kinds(stream) == TEXT_EVENTS
    assert stream[0]["response"]["status"] == "in_progress" and stream[0]["response"]["output"] == []
    deltas = [event for event in stream if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == "九点开门。" and all(event["delta"] for event in deltas)
    (done,) = [event for event in stream if event["type"] == "response.output_text.done"]
    assert done["text"] == "九点开门。"
    assert {event["item_id"] for event in (*deltas, done)} == {stream[-1]["response"]["output"][0]["id"]}


def test_events_of_thoughts_and_calls(scribe: httpx.Client) -> None:
    stream = events(scribe, ALL, tools=[TOOL])
    call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert kinds(stream) == [
        *TEXT_EVENTS[:4],
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        *TEXT_EVENTS[6:8],
        *TEXT_EVENTS[2:8],
        *call,
        *call,
        "response.completed",
    ]
    added = [event for event in stream if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert [event["item"]["status"] for event in added] == ["in_progress"] * 4
    assert added[2]["item"]["arguments"] == "" and added[2]["item"]["name"] == "查天气"
    pieces = [event for event in stream if event["type"] == "response.function_call_arguments.delta"]
    first = "".join(event["delta"] for event in pieces if event["output_index"] == 2)
    assert json.loads(first) == {"城市": "北京", "天数": 2}


def test_cut_off(scribe: httpx.Client) -> None:
    response = respond(scribe, "一二三四五六七八九十", max_output_tokens=4)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"


def test_the_second_turn(scribe: httpx.Client) -> None:
    """The output of the first is input of the second, as OpenAI's documents have it."""
    first = respond(scribe, ALL, tools=[TOOL])["output"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": f"{MARK}北京晴,上海雨。"}
        for item in first
        if item["type"] == "function_call"
    ]
    body = {"input": [{"role": "user", "content": MARK + ALL}, *first, *results], "tools": [TOOL]}
    answer = scribe.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"][0]["content"][0]["text"] == "北京晴,上海雨。"


def test_instructions_and_parts(scribe: httpx.Client) -> None:
    parts = [{"type": "input_text", "text": MARK}, {"type": "input_text", "text": "好"}]
    given = [{"type": "message", "role": "developer", "content": "短"}, {"role": "user", "content": parts}]
    response = respond(scribe, "", input=given, instructions="简短回答。")
    assert response["instructions"] == "简短回答。"
    assert response["output"][0]["content"][0]["text"].strip() == "好"


def test_logprobs(scribe: httpx.Client) -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = respond(scribe, "九点。", **fields)
    entries = response["output"][0]["content"][0]["logprobs"]
    assert len(entries) == response["usage"]["output_tokens"] and len(entries[0]["top_logprobs"]) == 2
    stream = events(scribe, "九点。", **fields)
    part = stream[-1]["response"]["output"][0]["content"][0]
    assert [entry["bytes"] for entry in part["logprobs"]] == [entry["bytes"] for entry in entries]


def test_thinking_can_be_switched_off(scribe: httpx.Client) -> None:
    response = respond(scribe, "好。", reasoning={"effort": "none"})
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["reasoning"]["effort"] == "none"
    assert respond(scribe, "好。", model=f"{NAME}:nothink")["output"][0]["type"] == "message"


def test_what_is_accepted_and_changes_nothing(scribe: httpx.Client) -> None:
    respond(scribe, "x", store=True, user="u", truncation="disabled", include=["reasoning.encrypted_content"])
    respond(scribe, "x", n=1, best_of=1, use_beam_search=False, return_token_ids=False)
    respond(scribe, "x", text={"format": {"type": "text"}}, parallel_tool_calls=True, service_tier="auto", top_k=5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"role": "王", "content": "x"}]}, "input"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"text": {"format": {"type": "yaml"}}}, "text"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nothing"}}}}, "text"),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"reasoning": {"effort": "huge"}}, "reasoning_effort"),
        ({"truncation": "sometimes"}, "truncation"),
        ({"max_output_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"top_logprobs": 99}, "top_logprobs"),
    ],
)
def test_refusals(scribe: httpx.Client, fields: dict[str, Any], param: str, stream: bool) -> None:
    assert refusal(scribe, PATH, **fields, stream=stream)["param"] == param


def test_unknown_models_and_long_input(scribe: httpx.Client) -> None:
    answer = scribe.post(PATH, json={"model": "gpt-9", "input": "x", "stream": True})
    assert answer.status_code == 404 and NAME in answer.json()["error"]["message"]
    answer = scribe.post(PATH, json={"input": "很长 " * 20_000})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_there_is_nothing_to_fetch(scribe: httpx.Client) -> None:
    assert scribe.get(PATH + "/resp_1").status_code == 404
