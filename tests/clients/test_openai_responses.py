"""OpenAI's Python SDK on /v1/responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from reading_room import API_KEY, CHAT, LOANS, LOANS_ANSWER, THINK, THOUGHT, THOUGHT_ANSWER, WEATHER, WEATHER_TOOL

FUNCTION: Any = {"type": "function", **WEATHER_TOOL["function"]}  # the tool, as this route spells it


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key=API_KEY, max_retries=0) as client:
        yield client


def test_text(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=CHAT, input=LOANS, instructions="简短回答。", temperature=0)
    assert (answer.output_text, answer.status) == (LOANS_ANSWER, "completed")
    assert answer.usage is not None and answer.usage.output_tokens > 0


def test_events(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model=CHAT, input=[{"role": "user", "content": LOANS}], stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == LOANS_ANSWER
    with sdk.responses.stream(model=CHAT, input=LOANS) as stream:
        assert stream.until_done().get_final_response().output_text == LOANS_ANSWER


def test_a_tool_is_called(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=CHAT, input=WEATHER, tools=[FUNCTION])
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert (call.name, call.arguments.replace(" ", "")) == ("get_weather", '{"city":"北京"}')
    events = list(sdk.responses.create(model=CHAT, input=WEATHER, tools=[FUNCTION], stream=True))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments.replace(" ", "") for event in done] == ['{"city":"北京"}']


def test_thoughts(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=CHAT, input=THINK)
    assert answer.output_text.strip() == THOUGHT_ANSWER
    (thoughts,) = [item for item in answer.output if item.type == "reasoning"]
    assert "".join(part.text for part in thoughts.content or []).strip() == THOUGHT
