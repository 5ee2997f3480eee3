"""Ollama's Python package: chats, tools, thoughts, forms, vectors, lists and errors, blocking and asyncio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import ollama
import pytest
from pydantic import BaseModel
from reading_room import (
    API_KEY,
    BOOK,
    CHAT,
    EMBED,
    LOANS,
    LOANS_ANSWER,
    LONG,
    RERANK,
    THINK,
    THOUGHT,
    THOUGHT_ANSWER,
    TWO_CITIES,
    WEATHER,
    WEATHER_REPORT,
)

KEY = {"Authorization": f"Bearer {API_KEY}"}


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url, headers=KEY) as opened:
        yield opened


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def get_weather(city: str) -> str:
    """今天的天气

    Args:
        city: 城市
    """
    return f"{city}:晴,-3°C"


class Book(BaseModel):
    title: str
    year: int
    kind: Literal["小说", "诗"] | None = None


def test_chat(client: ollama.Client) -> None:
    answer = client.chat(CHAT, [user(LOANS)], options={"temperature": 0, "num_ctx": 4096})
    assert (answer.message.role, answer.message.content) == ("assistant", LOANS_ANSWER)
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", CHAT)
    assert answer.prompt_eval_count and answer.eval_count and answer.total_duration and answer.eval_duration
    assert client.chat(CHAT + ":latest", [user(LOANS)])["message"]["content"] == LOANS_ANSWER


def test_chat_streamed(client: ollama.Client) -> None:
    *parts, last = client.chat(CHAT, [user(LOANS)], stream=True)
    assert len(parts) > 1 and "".join(part.message.content for part in parts) == LOANS_ANSWER
    assert not any(part.done for part in parts) and last.done and last.done_reason == "stop"
    assert last.eval_count and last.message.content == ""


def test_cut_at_num_predict(client: ollama.Client) -> None:
    answer = client.chat(CHAT, [user(LONG)], options={"num_predict": 7})
    assert (answer.done_reason, answer.eval_count) == ("length", 7)


def test_a_stop_string(client: ollama.Client) -> None:
    answer = client.generate(CHAT, LOANS, options={"stop": ["十本"]})
    assert (answer.response, answer.done_reason) == (LOANS_ANSWER.partition("十本")[0], "stop")


def test_a_function_as_a_tool(client: ollama.Client) -> None:
    messages: list[Any] = [user(WEATHER)]
    first = client.chat(CHAT, messages, tools=[get_weather])
    (call,) = first.message.tool_calls or ()
    assert call.function.name == "get_weather" and call.function.arguments == {"city": "北京"}
    assert first.message.content == "" and first.done_reason == "stop"
    result = get_weather(**call.function.arguments)
    messages += [first.message, {"role": "tool", "tool_name": "get_weather", "content": result}]
    assert client.chat(CHAT, messages, tools=[get_weather]).message.content == WEATHER_REPORT


def test_calls_come_whole(client: ollama.Client) -> None:
    lines = list(client.chat(CHAT, [user(TWO_CITIES)], tools=[get_weather], stream=True))
    calls = [call for line in lines for call in line.message.tool_calls or ()]
    assert [call.function.arguments for call in calls] == [{"city": "北京"}, {"city": "上海"}]
    assert not lines[-1].message.tool_calls and lines[-1].done
    assert "".join(line.message.content or "" for line in lines).strip() == ""


def test_a_call_that_was_cut_off_is_text(client: ollama.Client) -> None:
    """Arguments are an object or nothing; nothing that was written is lost."""
    for stream in (False, True):
        answers = client.chat(CHAT, [user(WEATHER)], tools=[get_weather], options={"num_predict": 40}, stream=stream)
        lines: list[Any] = list(answers) if stream else [answers]
        assert lines[-1].done_reason == "length"
        assert not any(line.message.tool_calls for line in lines)
        assert "get_weather" in "".join(line.message.content for line in lines)


def test_no_tools(client: ollama.Client) -> None:
    assert client.chat(CHAT, [user(LOANS)], tools=[]).message.content == LOANS_ANSWER


def test_thoughts(client: ollama.Client) -> None:
    whole = client.chat(CHAT, [user(THINK)], think=True).message
    assert (whole.thinking.strip(), whole.content.strip()) == (THOUGHT, THOUGHT_ANSWER)
    lines = list(client.chat(CHAT, [user(THINK)], think="high", stream=True))
    assert "".join(line.message.thinking or "" for line in lines).strip() == THOUGHT
    assert "".join(line.message.content for line in lines).strip() == THOUGHT_ANSWER
    generated = client.generate(CHAT, THINK, think=True)
    assert (generated.thinking.strip(), generated.response.strip()) == (THOUGHT, THOUGHT_ANSWER)


def test_a_form(client: ollama.Client) -> None:
    answer = client.chat(CHAT, [user(BOOK)], format=Book.model_json_schema(), options={"temperature": 0})
    assert Book.model_validate_json(answer.message.content).title == "红楼梦"
    assert client.generate(CHAT, BOOK, format="json").response.startswith("{")
    pieces = client.generate(CHAT, BOOK, format=Book.model_json_schema(), stream=True)
    assert Book.model_validate_json("".join(piece.response for piece in pieces)).year == 1791


def test_generate(client: ollama.Client) -> None:
    assert client.generate(CHAT, LOANS, system="你是图书管理员。").response == LOANS_ANSWER
    raw = client.generate(CHAT, LOANS, raw=True, options={"num_predict": 4})
    assert raw.eval_count == 4 and raw.context is None
    assert client.generate(CHAT).done_reason == "load"
    assert client.generate(CHAT, keep_alive=0).done_reason == "unload"


def test_vectors(client: ollama.Client) -> None:
    answer = client.embed(EMBED, ["你好", "hello"])
    assert [math.hypot(*row) for row in answer.embeddings] == pytest.approx([1, 1], abs=1e-5)
    assert client.embed(EMBED, "你好", truncate=False, options={"use_mmap": True}).prompt_eval_count
    assert len(client.embeddings(EMBED, "你好").embedding) == len(answer.embeddings[0])


def test_what_there_is(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert f"{CHAT}:latest" in listed and f"{RERANK}:latest" in listed
    chat = listed[f"{CHAT}:latest"]
    assert chat.modified_at and chat.size and chat.digest and chat.details and chat.details.family == "qwen2"
    running = {model.name: model for model in client.ps().models}
    assert running[f"{CHAT}:latest"].context_length and running[f"{CHAT}:latest"].expires_at
    card = client.show(CHAT)
    assert card.capabilities == ["completion", "tools", "thinking"]
    assert card.modelinfo["qwen2.context_length"] == running[f"{CHAT}:latest"].context_length
    assert client.show(EMBED).capabilities[0] == "embedding"


def test_errors(client: ollama.Client, url: str) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat("llama3.2", [user(LOANS)])
    assert (missing.value.status_code, missing.value.error) == (404, "model 'llama3.2' not found")
    with pytest.raises(ollama.ResponseError) as streamed:
        list(client.chat("llama3.2", [user(LOANS)], stream=True))
    assert (streamed.value.status_code, streamed.value.error) == (404, "model 'llama3.2' not found")
    with pytest.raises(ollama.ResponseError, match="maximum context length") as long:
        client.generate(CHAT, "很长。" * 5000)
    assert long.value.status_code == 400
    with pytest.raises(ollama.ResponseError) as schema:
        client.chat(CHAT, [user(BOOK)], format={"type": "nonsense"})
    assert schema.value.status_code == 400
    with ollama.Client(host=url) as stranger, pytest.raises(ollama.ResponseError, match="API key") as refused:
        stranger.list()
    assert refused.value.status_code == 401


async def test_asyncio(url: str) -> None:
    async with ollama.AsyncClient(host=url, headers=KEY) as client:
        answer = await client.chat(CHAT, [user(WEATHER)], tools=[get_weather])
        assert answer.message.tool_calls and answer.message.tool_calls[0].function.arguments == {"city": "北京"}
        parts = [part async for part in await client.chat(CHAT, [user(LOANS)], stream=True)]
        assert "".join(part.message.content for part in parts) == LOANS_ANSWER
        pieces = [piece async for piece in await client.generate(CHAT, LOANS, stream=True)]
        assert "".join(piece.response for piece in pieces) == LOANS_ANSWER
        assert len((await client.embed(EMBED, ["a", "b"])).embeddings) == 2
        assert (await client.list()).models and (await client.show(CHAT)).capabilities
