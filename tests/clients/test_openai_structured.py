"""OpenAI's Python SDK: answers and calls that are held to a form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from reading_room import API_KEY, BOOK, BOOK_SCHEMA, CARELESS, CHAT, LOANS, WEATHER_TOOL

TOOLS: Any = [WEATHER_TOOL]
NO_THOUGHTS = {"enable_thinking": False}  # what is no thought has a form


class Book(BaseModel):
    title: str
    year: int


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key=API_KEY, max_retries=0) as client:
        yield client


def asked(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": CHAT, "messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


STRICT: Any = [{"type": "function", "function": {**WEATHER_TOOL["function"], "strict": True}}]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"tools": TOOLS}, {"city": "北京", "unit": "K"}),  # as the model wrote it
        ({"tools": STRICT}, {"city": "北京"}),
        ({"tools": TOOLS, "tool_choice": "required"}, {"city": "北京"}),
        ({"tools": TOOLS, "tool_choice": NAMED}, {"city": "北京"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_or_strict_call_keeps_to_its_schema(
    sdk: openai.OpenAI, fields: dict[str, Any], arguments: dict[str, str], stream: bool
) -> None:
    if stream:
        with sdk.chat.completions.stream(**asked(CARELESS, **fields)) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = sdk.chat.completions.create(**asked(CARELESS, **fields)).choices[0].message
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [arguments]


def test_parsed_into_a_class(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.parse(**asked(BOOK), response_format=Book)
    assert answer.choices[0].message.parsed == Book(title="红楼梦", year=1791)
    with sdk.chat.completions.stream(**asked(BOOK), response_format=Book) as stream:
        list(stream)
        assert stream.get_final_completion().choices[0].message.parsed == Book(title="红楼梦", year=1791)


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "book", "schema": BOOK_SCHEMA}}},
        {"response_format": {"type": "json_object"}},
        {"extra_body": {"guided_json": BOOK_SCHEMA}},
        {"extra_body": {"structured_outputs": {"json": BOOK_SCHEMA}}},
    ],
)
def test_json_as_asked(sdk: openai.OpenAI, form: dict[str, Any]) -> None:
    answer = sdk.chat.completions.create(**asked(BOOK, **form))
    assert json.loads(answer.choices[0].message.content or "") == {"title": "红楼梦", "year": 1791}


@pytest.mark.parametrize(
    ("form", "allowed"),
    [({"guided_choice": ["是", "否"]}, {"是", "否"}), ({"structured_outputs": {"regex": "[0-9]"}}, set("0123456789"))],
)
def test_a_form_that_the_model_would_not_write(sdk: openai.OpenAI, form: dict[str, Any], allowed: set[str]) -> None:
    answer = sdk.chat.completions.create(**asked(LOANS, extra_body={**form, **NO_THOUGHTS}, max_tokens=40))
    assert answer.choices[0].message.content in allowed


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "get_money"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
        {"extra_body": {"guided_grammar": "this is no grammar ::= ("}},
        {"extra_body": {"guided_regex": "("}},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refused_before_the_first_byte(sdk: openai.OpenAI, fields: dict[str, Any], stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        sdk.chat.completions.create(**asked(LOANS, stream=stream, **fields))
    assert error.value.param
