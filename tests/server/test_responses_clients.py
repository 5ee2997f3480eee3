"""``/v1/responses`` through the clients that speak it: openai's create, stream and parse, and ChatOpenAI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from dictated import MARK, NAME, WEATHER, hermes, thought
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel, ConfigDict, SecretStr

TOOL: Any = {"type": "function", "strict": False, **WEATHER["function"]}
CALL = hermes("查天气", {"城市": "北京"})
BOOK = '{"书名": "红楼梦", "年份": 1791}'


class Book(BaseModel):
    model_config = ConfigDict(extra="forbid")

    书名: str
    年份: int


@pytest.fixture
def sdk(dictated_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=dictated_url + "/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
def chat(dictated_url: str) -> ChatOpenAI:
    return ChatOpenAI(
        model=NAME, base_url=dictated_url + "/v1", api_key=SecretStr("x"), use_responses_api=True, max_retries=0
    )


def test_two_turns_with_a_tool(sdk: openai.OpenAI) -> None:
    given: list[Any] = [{"role": "user", "content": MARK + thought("先想。", CALL)}]
    first = sdk.responses.create(model=NAME, input=given, tools=[TOOL], temperature=0)
    call = first.output[-1]
    assert isinstance(call, ResponseFunctionToolCall) and json.loads(call.arguments) == {"城市": "北京"}
    given += first.output
    given.append({"type": "function_call_output", "call_id": call.call_id, "output": f"{MARK}晴。"})
    second = sdk.responses.create(model=NAME, input=given, tools=[TOOL], instructions="简短。")
    assert second.output_text == "晴。" and second.status == "completed"
    assert second.usage is not None and second.usage.total_tokens > second.usage.output_tokens


def test_the_helper_follows_a_stream(sdk: openai.OpenAI) -> None:
    """It keeps a snapshot of every item, and trips over events out of order."""
    with sdk.responses.stream(model=NAME, input=MARK + thought("先想。", "我查。" + CALL), tools=[TOOL]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "我查。"
    written = [event.snapshot for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads(written[-1]) == {"城市": "北京"}


def test_parsed_into_a_class(sdk: openai.OpenAI) -> None:
    parsed = sdk.responses.parse(model=NAME, input=MARK + BOOK, text_format=Book).output_parsed
    assert parsed == Book(书名="红楼梦", 年份=1791)
    with sdk.responses.stream(model=NAME, input=MARK + BOOK, text_format=Book) as stream:
        stream.until_done()
        assert stream.get_final_response().output_parsed == parsed


def test_errors(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stores no responses") as refused:
        sdk.responses.create(model=NAME, input="x", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError, match="web_search"):
        sdk.responses.create(model=NAME, input="x", tools=[{"type": "web_search"}], stream=True)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(model="gpt-9", input="x")


async def test_async(dictated_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=dictated_url + "/v1", api_key="x") as client:
        stream = await client.responses.create(model=NAME, input=MARK + "好。", stream=True)
        text = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(text) == "好。"


def test_langchain(chat: ChatOpenAI) -> None:
    message = chat.invoke(MARK + "九点。")
    assert message.text == "九点。" and message.usage_metadata is not None
    chunks = list(chat.stream(MARK + "九点。"))
    assert "".join(chunk.text for chunk in chunks) == "九点。"


@pytest.mark.parametrize("streamed", [False, True])
def test_langchain_calls(chat: ChatOpenAI, streamed: bool) -> None:
    able = chat.bind_tools([TOOL])
    question = HumanMessage(MARK + thought("先想。", CALL))
    if streamed:
        message: Any = sum(able.stream([question]), AIMessageChunk(""))
    else:
        message = able.invoke([question])
    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("查天气", {"城市": "北京"})
    answer = able.invoke([question, message, ToolMessage(f"{MARK}晴。", tool_call_id=call["id"])])
    assert answer.text == "晴。"


def test_langchain_structured_output(chat: ChatOpenAI) -> None:
    assert chat.with_structured_output(Book).invoke(MARK + BOOK) == Book(书名="红楼梦", 年份=1791)
