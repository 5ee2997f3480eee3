"""OpenAI's Python SDK: tools and thoughts, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from reading_room import (
    API_KEY,
    CHAT,
    LOANS,
    LOANS_ANSWER,
    THINK,
    THOUGHT,
    THOUGHT_ANSWER,
    TWO_CITIES,
    WEATHER,
    WEATHER_REPORT,
    WEATHER_TOOL,
)

TOOLS: Any = [WEATHER_TOOL]


class City(BaseModel):
    city: str


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key=API_KEY, max_retries=0) as client:
        yield client


def asked(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": CHAT, "messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


def test_a_tool_is_called_and_its_answer_read(sdk: openai.OpenAI) -> None:
    first = sdk.chat.completions.create(**asked(WEATHER, tools=TOOLS)).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "北京"}
    turn = {"role": "tool", "tool_call_id": call.id, "content": "晴,-3°C"}
    messages = [{"role": "user", "content": WEATHER}, first.message, turn]
    second = sdk.chat.completions.create(model=CHAT, messages=messages, tools=TOOLS).choices[0]
    assert (second.message.content, second.finish_reason) == (WEATHER_REPORT, "stop")


def test_text_in_spite_of_tools(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(**asked(LOANS, tools=TOOLS)).choices[0]
    assert (answer.message.content, answer.message.tool_calls, answer.finish_reason) == (LOANS_ANSWER, None, "stop")
    none = sdk.chat.completions.create(**asked(WEATHER, tools=TOOLS, tool_choice="none")).choices[0]
    assert not none.message.tool_calls and none.finish_reason == "stop"


def test_parallel_calls_streamed(sdk: openai.OpenAI) -> None:
    """The id and the name come once, then arguments; a call is over before the next one begins."""
    chunks = list(sdk.chat.completions.create(**asked(TWO_CITIES, tools=TOOLS, stream=True)))
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]
    heads = [delta for delta in deltas if delta.id]
    assert [delta.index for delta in heads] == [0, 1] and len({delta.id for delta in heads}) == 2
    assert [delta.index for delta in deltas] == sorted(delta.index for delta in deltas)
    for index, city in enumerate(("北京", "上海")):
        own = [delta.function for delta in deltas if delta.index == index]
        assert [function.name for function in own if function.name] == ["get_weather"]
        assert json.loads("".join(function.arguments or "" for function in own)) == {"city": city}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_stream_helper_puts_calls_together(sdk: openai.OpenAI) -> None:
    strict = [openai.pydantic_function_tool(City, name="get_weather")]
    with sdk.chat.completions.stream(**asked(WEATHER, tools=strict)) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments == City(city="北京")


def test_thoughts(sdk: openai.OpenAI) -> None:
    message: Any = sdk.chat.completions.create(**asked(THINK)).choices[0].message
    assert (message.reasoning.strip(), message.content.strip()) == (THOUGHT, THOUGHT_ANSWER)
    assert message.reasoning_content == message.reasoning
    deltas: Any = [c.choices[0].delta for c in sdk.chat.completions.create(**asked(THINK, stream=True))]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas).strip() == THOUGHT
    assert "".join(delta.content or "" for delta in deltas).strip() == THOUGHT_ANSWER


def test_a_model_alias_that_does_not_think(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(**asked(LOANS, model=CHAT + ":nothink"))
    assert answer.choices[0].message.content == LOANS_ANSWER
