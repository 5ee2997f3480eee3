"""LlamaIndex's OpenAILike, with a changed URL and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from reading_room import API_KEY, BOOK, CHAT, LOANS, LOANS_ANSWER, TWO_CITIES, WEATHER

MESSAGES = [ChatMessage(role="user", content=LOANS)]


@pytest.fixture
def model(url: str) -> Iterator[OpenAILike]:
    with httpx.Client(timeout=60) as transport:
        yield OpenAILike(
            model=CHAT,
            api_base=url + "/v1",
            api_key=API_KEY,
            is_chat_model=True,
            is_function_calling_model=True,
            http_client=transport,
            max_retries=0,
        )


def test_chat(model: OpenAILike) -> None:
    assert model.chat(MESSAGES).message.content == LOANS_ANSWER
    streamed = list(model.stream_chat(MESSAGES))
    assert "".join(piece.delta or "" for piece in streamed) == LOANS_ANSWER
    assert streamed[-1].message.content == LOANS_ANSWER


def test_complete(model: OpenAILike, url: str) -> None:
    assert model.complete(LOANS).text == LOANS_ANSWER
    assert list(model.stream_complete(LOANS))[-1].text == LOANS_ANSWER


def test_complete_of_a_base_model(model: OpenAILike) -> None:
    """``is_chat_model=False`` goes to /v1/completions."""
    model.is_chat_model = False
    assert model.complete(LOANS, max_tokens=200).text == LOANS_ANSWER
    assert "".join(piece.delta or "" for piece in model.stream_complete(LOANS, max_tokens=200)) == LOANS_ANSWER


async def test_async(url: str) -> None:
    async with httpx.AsyncClient() as transport:
        model = OpenAILike(
            model=CHAT, api_base=url + "/v1", api_key=API_KEY, is_chat_model=True, async_http_client=transport
        )
        assert (await model.achat(MESSAGES)).message.content == LOANS_ANSWER
        pieces = [piece.delta or "" async for piece in await model.astream_chat(MESSAGES)]
    assert "".join(pieces) == LOANS_ANSWER


def get_weather(city: str) -> str:
    """今天的天气"""
    return f"{city}:晴"


def test_tools(model: OpenAILike) -> None:
    tools = [FunctionTool.from_defaults(get_weather)]
    answer = model.chat_with_tools(tools, user_msg=WEATHER)
    calls = model.get_tool_calls_from_response(answer)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("get_weather", {"city": "北京"})]
    for parallel, cities in ((True, ["北京", "上海"]), (False, ["北京"])):
        streamed = model.stream_chat_with_tools(tools, user_msg=TWO_CITIES, allow_parallel_tool_calls=parallel)
        calls = model.get_tool_calls_from_response(list(streamed)[-1])
        assert [call.tool_kwargs["city"] for call in calls] == cities


class Book(BaseModel):
    """一本书"""

    title: str
    year: int


def test_structured_predict(model: OpenAILike) -> None:
    """LlamaIndex makes a tool of the class, and lets the model call it."""
    prompt = PromptTemplate(BOOK)
    assert model.structured_predict(Book, prompt) == Book(title="红楼梦", year=1791)
    reader = model.as_structured_llm(Book)
    assert reader.complete(BOOK).raw == Book(title="红楼梦", year=1791)
