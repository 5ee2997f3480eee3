"""The JDK's own HTTP client, with its defaults: what Spring AI and every other Java client stands on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from carrel.host import EngineHost
from other_languages import HERE, java, printed, waiting
from reading_room import API_KEY, CHAT, LOANS_ANSWER, LONG_TOKENS
from server_threads import wait_for
from wire import recorded

pytestmark = pytest.mark.java


def command(url: str, name: str) -> list[str]:
    return [java(), "-Dfile.encoding=UTF-8", str(HERE / "java" / "Client.java"), url, API_KEY, name]


def contents(stream: str) -> str:
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert events[-1] == "[DONE]"
    return "".join(c["delta"].get("content", "") for e in events[:-1] for c in json.loads(e)["choices"])


def test_calls(url: str) -> None:
    with recorded(url) as wire:
        answers = {answer["name"]: answer for answer in printed(command(wire.url, "calls"))}
    assert all(answer["version"] == "HTTP_1_1" for answer in answers.values())
    statuses = {name: answer["status"] for name, answer in answers.items()}
    assert statuses.pop("refused") == 400 and statuses.pop("wrong key") == 401
    assert set(statuses.values()) == {200}
    body: dict[str, Any] = {name: json.loads(answers[name]["body"]) for name in answers if name != "stream"}
    assert CHAT in [model["id"] for model in body["models"]["data"]]
    for name in ("chat", "chunked"):
        assert body[name]["choices"][0]["message"]["content"] == LOANS_ANSWER
    assert body["embeddings"]["data"] == body["chunked embeddings"]["data"]
    assert contents(answers["stream"]["body"]) == LOANS_ANSWER
    sent = b"".join(wire.connections)
    assert b"Upgrade: h2c" in sent and b"HTTP2-Settings: " in sent
    assert b"Transfer-encoding: chunked" in sent or b"Transfer-Encoding: chunked" in sent


def test_the_connection_is_kept(url: str) -> None:
    with recorded(url) as wire:
        answers = printed(command(wire.url, "keep-alive"))
    assert [answer["status"] for answer in answers] == [200] * 6
    assert len(wire.connections) == 1
    assert wire.connections[0].count(b"/v1/chat/completions HTTP/1.1") == 3


def test_many_at_once(url: str) -> None:
    answers = printed(command(url, "concurrent"))
    texts = [json.loads(answer["body"])["choices"][0]["message"]["content"] for answer in answers]
    assert texts == [LOANS_ANSWER] * 20


def test_a_stream_that_is_left(url: str, host: EngineHost) -> None:
    """The program lives on: only its stream is closed."""
    generated = host.loop.stats().scheduler.num_generated_tokens
    with waiting(command(url, "leave")) as line:
        assert line["status"] == 200 and line["body"].startswith("data: {")
        wait_for(lambda: host.loop.stats().num_open == 0, seconds=5)
        assert host.loop.stats().scheduler.num_generated_tokens - generated < LONG_TOKENS


def test_a_stream_that_nobody_reads(url: str, host: EngineHost) -> None:
    with waiting(command(url, "stall")) as line:
        assert line["status"] == 200
        answers = printed(command(url, "keep-alive"))
        assert [answer["status"] for answer in answers] == [200] * 6
    wait_for(lambda: host.loop.stats().num_open == 0, seconds=10)
