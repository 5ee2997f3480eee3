"""The clients that people really use, against a real socket."""

from __future__ import annotations

import base64
import math
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core.base.llms.types import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import SecretStr

MESSAGES: Any = [{"role": "user", "content": "一个读者可以借几本书?"}]
EXTRA: dict[str, Any] = {"ignore_eos": True}


@pytest.fixture
def sdk(key_url: str) -> Any:
    with openai.OpenAI(base_url=key_url + "/v1", api_key="first-key", max_retries=0) as client:
        yield client


def test_openai_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="tiny-chat", messages=MESSAGES, temperature=0, max_completion_tokens=12, extra_body=EXTRA
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens_details is not None


def test_openai_chat_stream(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(
        model="tiny-chat", messages=MESSAGES, temperature=0, max_tokens=12, extra_body=EXTRA
    )
    stream = sdk.chat.completions.create(
        model="tiny-chat",
        messages=MESSAGES,
        temperature=0,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=EXTRA,
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == "length"


def test_openai_chat_logprobs(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="tiny-chat", messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2, extra_body=EXTRA
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None and len(content) == 3
    assert all(math.isfinite(entry.logprob) and len(entry.top_logprobs) == 2 for entry in content)


def test_openai_completions(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model="tiny-chat", prompt=["河水", "a"], max_tokens=4, n=2, extra_body=EXTRA)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    stream = sdk.completions.create(model="tiny-chat", prompt="河水", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream)


def test_openai_embeddings_default_to_base64(sdk: openai.OpenAI) -> None:
    packed = sdk.embeddings.create(model="tiny-embed", input=["图书馆", "river"])
    plain = sdk.embeddings.create(model="tiny-embed", input=["图书馆", "river"], encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
    raw: Any = sdk.embeddings.create(model="tiny-embed", input="a", encoding_format="base64").data[0].embedding
    assert len(base64.b64decode(raw)) == 4 * len(plain.data[0].embedding)


def test_openai_models(sdk: openai.OpenAI) -> None:
    assert {model.id for model in sdk.models.list()} >= {"tiny-chat", "tiny-embed", "tiny-rerank"}
    assert sdk.models.retrieve("tiny-chat").owned_by == "carrel"


def test_openai_errors(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        sdk.chat.completions.create(model="tiny-chat", messages=MESSAGES, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="tiny-chat"):
        sdk.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as long:
        sdk.chat.completions.create(model="tiny-chat", messages=[{"role": "user", "content": "很长 " * 9000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="wrong").models.list()


async def test_openai_async(key_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=key_url + "/v1", api_key="first-key") as client:
        stream = await client.chat.completions.create(
            model="tiny-chat", messages=MESSAGES, max_tokens=6, stream=True, extra_body=EXTRA
        )
        assert [chunk async for chunk in stream]


def chat_openai(key_url: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="tiny-chat",
        base_url=key_url + "/v1",
        api_key=SecretStr("first-key"),
        temperature=0,
        max_completion_tokens=10,
        extra_body=EXTRA,
        **fields,
    )


def test_langchain_chat(key_url: str) -> None:
    model = chat_openai(key_url)
    message = model.invoke("你好")
    assert message.usage_metadata is not None and message.usage_metadata["output_tokens"] == 10
    assert "".join(str(chunk.content) for chunk in model.stream("你好")) == message.content
    assert model.batch(["你好", "hi"])[0].content == message.content


def test_langchain_usage_in_streams(key_url: str) -> None:
    chunks = list(chat_openai(key_url, stream_usage=True).stream("你好"))
    assert sum(c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata) == 10


async def test_langchain_async(key_url: str) -> None:
    pieces = [chunk async for chunk in chat_openai(key_url).astream("你好")]
    assert "".join(str(piece.content) for piece in pieces)


def test_langchain_embeddings(key_url: str) -> None:
    model = OpenAIEmbeddings(
        model="tiny-embed",
        base_url=key_url + "/v1",
        api_key=SecretStr("first-key"),
        check_embedding_ctx_length=False,
    )
    vectors = model.embed_documents(["图书馆", "river"])
    assert vectors[0] == pytest.approx(model.embed_query("图书馆"), abs=1e-5)


def llama_index(key_url: str) -> OpenAILike:
    return OpenAILike(
        model="tiny-chat",
        api_base=key_url + "/v1",
        api_key="first-key",
        is_chat_model=True,
        temperature=0,
        max_tokens=10,
        additional_kwargs={"extra_body": EXTRA},
    )


def test_llama_index(key_url: str) -> None:
    model = llama_index(key_url)
    answer = model.chat([ChatMessage(role="user", content="你好")])
    assert answer.message.content
    streamed = list(model.stream_chat([ChatMessage(role="user", content="你好")]))
    assert "".join(piece.delta or "" for piece in streamed) == answer.message.content
    assert streamed[-1].message.content == answer.message.content
    assert model.complete("你好").text == answer.message.content
