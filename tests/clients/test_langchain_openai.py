"""``langchain_openai``, with a changed URL and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import tiktoken
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr
from reading_room import API_KEY, BOOK, CHAT, DEFAULT, EMBED, LOANS, LOANS_ANSWER, TWO_CITIES, WEATHER, WEATHER_REPORT


@pytest.fixture
def transport() -> Iterator[httpx.Client]:
    """LangChain never closes the client that it makes; this one is closed."""
    with httpx.Client(timeout=60) as client:
        yield client


@pytest.fixture
def model(url: str, transport: httpx.Client) -> ChatOpenAI:
    return ChatOpenAI(model=CHAT, base_url=url + "/v1", api_key=SecretStr(API_KEY), http_client=transport)


def test_invoke_stream_and_batch(model: ChatOpenAI) -> None:
    message = model.invoke(LOANS)
    assert message.content == LOANS_ANSWER
    assert message.usage_metadata is not None and message.usage_metadata["output_tokens"] > 0
    assert message.response_metadata["finish_reason"] == "stop"
    assert "".join(str(chunk.content) for chunk in model.stream(LOANS)) == LOANS_ANSWER
    assert [answer.content for answer in model.batch([LOANS, "你是谁?"])] == [LOANS_ANSWER, DEFAULT]


def test_usage_in_streams(model: ChatOpenAI) -> None:
    whole = model.invoke(LOANS, temperature=0)
    chunks = list(model.stream(LOANS, stream_usage=True, temperature=0))
    assert whole.usage_metadata is not None
    streamed = sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata)
    assert streamed == whole.usage_metadata["output_tokens"]


async def test_async(url: str) -> None:
    async with httpx.AsyncClient() as transport:
        model = ChatOpenAI(
            model=CHAT, base_url=url + "/v1", api_key=SecretStr(API_KEY), http_async_client=transport, max_retries=0
        )
        assert "".join([str(piece.content) async for piece in model.astream(LOANS)]) == LOANS_ANSWER
        assert (await model.ainvoke(LOANS)).content == LOANS_ANSWER


def embeddings(url: str, transport: httpx.Client, **fields: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model=EMBED, base_url=url + "/v1", api_key=SecretStr(API_KEY), http_client=transport, max_retries=0, **fields
    )


def test_embeddings(url: str, transport: httpx.Client) -> None:
    model = embeddings(url, transport, check_embedding_ctx_length=False)
    vectors = model.embed_documents(["图书馆", "river"])
    assert vectors[0] == pytest.approx(model.embed_query("图书馆"), abs=1e-5)


def test_embeddings_of_token_ids_say_what_to_do(
    url: str, transport: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default LangChain sends token ids of tiktoken's, whose tables are a download: this one is made here."""
    ranks = {bytes([value]): value for value in range(256)}
    encoding = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: encoding)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings(url, transport).embed_documents(["图书馆"])


@tool
def get_weather(city: str) -> str:
    """今天的天气"""
    return f"{city}:晴"


def test_tools(model: ChatOpenAI) -> None:
    able = model.bind_tools([get_weather])
    first = able.invoke(WEATHER)
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [("get_weather", {"city": "北京"})]
    result = get_weather.invoke(first.tool_calls[0])
    assert able.invoke([HumanMessage(WEATHER), first, result]).content == WEATHER_REPORT
    whole: Any = None
    for chunk in able.stream(TWO_CITIES):
        whole = chunk if whole is None else whole + chunk
    assert [call["args"]["city"] for call in whole.tool_calls] == ["北京", "上海"]
    assert len({call["id"] for call in whole.tool_calls}) == 2


class Book(BaseModel):
    """一本书"""

    title: str
    year: int


# langchain_openai writes the SDK's answer out again, whose field ``parsed`` pydantic did not expect to be filled.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, method: Any) -> None:
    reader = model.with_structured_output(Book, method=method)
    assert reader.invoke(BOOK) == Book(title="红楼梦", year=1791)
    assert list(reader.stream(BOOK))[-1] == Book(title="红楼梦", year=1791)


def test_json_mode(model: ChatOpenAI) -> None:
    assert model.with_structured_output(None, method="json_mode").invoke(BOOK) == {"title": "红楼梦", "year": 1791}
