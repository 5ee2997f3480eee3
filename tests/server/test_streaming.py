"""Server-sent events: the bytes, the order of the chunks, and the same text as without streaming."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from carrel_server.ndjson import LineStream
from carrel_server.request_record import CURRENT, RequestRecord
from carrel_server.sse import DONE, EventStream
from server_threads import raw_exchange

MESSAGES = [{"role": "user", "content": "图书馆里有什么?😀"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}


def stream_bytes(client: httpx.Client, path: str = "/v1/chat/completions", **fields: Any) -> bytes:
    body = {"messages": MESSAGES, **GREEDY, "stream": True, **fields}
    if path == "/v1/completions":
        body.pop("messages")
    with client.stream("POST", path, json=body) as answer:
        data = b"".join(answer.iter_bytes())
        assert answer.status_code == 200, data
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-cache"
    return data


def events(data: bytes) -> list[dict[str, Any]]:
    """The events, after checking each byte of the framing."""
    assert b"\r" not in data
    assert data.endswith(b"\n\n")
    frames = data[:-2].split(b"\n\n")
    assert frames[-1] == b"data: [DONE]"
    result = []
    for frame in frames[:-1]:
        assert frame.startswith(b"data: {") and b"\n" not in frame
        result.append(json.loads(frame.removeprefix(b"data: ")))
    return result


def content(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content", "") for c in chunks for choice in c["choices"] if choice["index"] == index
    )


def test_the_order_of_chunks(client: httpx.Client) -> None:
    chunks = events(stream_bytes(client))
    first, *middle, last = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["choices"][0]["finish_reason"] is None
    assert middle
    for chunk in middle:
        (choice,) = chunk["choices"]
        assert list(choice["delta"]) == ["content"]
        assert choice["delta"]["content"], "no chunk for bytes that are held back"
        assert choice["finish_reason"] is None
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "length"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)


def test_the_first_frame_byte_by_byte(client: httpx.Client) -> None:
    data = stream_bytes(client, model="tiny-chat")
    chunk = events(data)[0]
    expected = (
        f'{{"object":"chat.completion.chunk","id":"{chunk["id"]}","created":{chunk["created"]},"model":"tiny-chat",'
        '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
    )
    assert data.split(b"\n\n")[0] == b"data: " + expected.encode()


def test_streamed_is_the_same_text(client: httpx.Client) -> None:
    whole = client.post("/v1/chat/completions", json={"messages": MESSAGES, **GREEDY}).json()
    streamed = content(events(stream_bytes(client)))
    assert streamed == whole["choices"][0]["message"]["content"]


def test_usage_only_when_asked(client: httpx.Client) -> None:
    *chunks, last = events(stream_bytes(client, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 24
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 24
    assert all("usage" not in chunk for chunk in events(stream_bytes(client, stream_options={"include_usage": False})))


def test_usage_on_every_chunk_when_asked(client: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(stream_bytes(client, stream_options=options))
    numbers = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert numbers == sorted(numbers) and numbers[-1] == 24


def test_several_choices_each_end_once(client: httpx.Client) -> None:
    chunks = events(stream_bytes(client, n=2, temperature=1.0, seed=3))
    for index in (0, 1):
        mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in mine].count("length") == 1
        assert mine[-1]["finish_reason"] == "length"


def test_logprobs_of_all_tokens(client: httpx.Client) -> None:
    chunks = events(stream_bytes(client, logprobs=True, top_logprobs=1))
    entries = [e for chunk in chunks for c in chunk["choices"] if c["logprobs"] for e in c["logprobs"]["content"]]
    assert len(entries) == 24


def test_a_stop_string_is_never_half_sent(client: httpx.Client) -> None:
    whole = content(events(stream_bytes(client)))
    mark = whole[4:7]
    chunks = events(stream_bytes(client, stop=mark))
    assert content(chunks) == whole[: whole.index(mark)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"][0]["stop_reason"] == mark


def test_the_widely_copied_client_loop(client: httpx.Client) -> None:
    """It reads lines, splits at ": ", wants choices in each event, and stops at finish_reason "stop"."""
    whole = content(events(stream_bytes(client)))
    text = ""
    for line in stream_bytes(client, stop=whole[6:8]).decode().split("\n"):
        if not line:
            continue
        data = json.loads(line.split(": ", 1)[1])
        if data["choices"][0]["finish_reason"] == "stop":
            break
        text += data["choices"][0]["delta"].get("content", "")
    assert text == whole[: whole.index(whole[6:8])]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"temperature": -1}, 400),
        ({"model": "nobody"}, 404),
        ({"messages": [{"role": "user", "content": "x " * 20_000}]}, 400),
    ],
)
def test_errors_before_the_first_byte_are_plain_errors(
    client: httpx.Client, fields: dict[str, Any], status: int
) -> None:
    body = {"messages": MESSAGES, **GREEDY, "stream": True, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["message"]


def test_completions_stream(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"prompt": ["河水", "读者"], "n": 2, "max_tokens": 6, "temperature": 0}
    chunks = events(stream_bytes(client, "/v1/completions", **fields, stream_options={"include_usage": True}))
    whole = client.post("/v1/completions", json={**fields, "ignore_eos": True}).json()
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == "length" and mine[-1]["text"] == ""
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 24
    assert chunks[0]["object"] == "text_completion"


def test_spring_ais_request_of_a_stream(url: str) -> None:
    """Java's HttpClient: an offer of h2c, chunked, head and body in two segments."""
    body = json.dumps({"messages": MESSAGES, **GREEDY, "stream": True}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: x\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = raw_exchange(url, [head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)], until=b"[DONE]")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"finish_reason":"length"' in answer


@pytest.mark.parametrize(("kind", "last"), [(EventStream, DONE), (LineStream, b"")])
async def test_a_stream_out_of_time_ends_like_others(kind: type[EventStream], last: bytes) -> None:
    sent: list[Any] = []

    async def endless() -> AsyncGenerator[Any, None]:
        yield {"a": 1}
        await asyncio.sleep(60)

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    events = endless()
    CURRENT.set(RequestRecord("late", deadline=time.monotonic() + 0.05))
    await kind(events, events)({"type": "http"}, receive, send)
    *_, error, end = (message["body"] for message in sent if "body" in message)
    assert b"--request-timeout" in error and error.endswith(b"}\n" + (b"\n" + last if last else b""))
    assert end == b""
