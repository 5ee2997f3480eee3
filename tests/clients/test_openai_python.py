"""OpenAI's Python SDK: chat, completions, embeddings, models and errors, over a real socket."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from reading_room import API_KEY, CHAT, EMBED, LOANS, LOANS_ANSWER, LONG, RERANK

MESSAGES: Any = [{"role": "user", "content": LOANS}]


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key=API_KEY, max_retries=0) as client:
        yield client


def test_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=CHAT, messages=MESSAGES)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == LOANS_ANSWER
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens > 0
    assert answer.usage.prompt_tokens_details is not None


def test_chat_is_cut_off(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=CHAT, messages=MESSAGES, max_completion_tokens=12)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 12
    assert LOANS_ANSWER.startswith((answer.choices[0].message.content or "").rstrip("�"))


def test_chat_with_all_spellings(sdk: openai.OpenAI) -> None:
    parts: Any = [
        {"role": "developer", "content": "简短回答。"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": LOANS}]},
    ]
    extra = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}, "extra_body": {"min_p": "0.1"}}
    answer = sdk.chat.completions.create(model=CHAT, messages=parts, n=2, seed=7, stop=["借期"], extra_body=extra)
    assert [choice.message.content for choice in answer.choices] == ["每位读者最多可以借十本书,"] * 2
    assert {choice.stop_reason for choice in answer.choices} == {"借期"}  # type: ignore[attr-defined]


def test_chat_stream(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model=CHAT, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == LOANS_ANSWER
    assert "�" not in "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_stream_without_usage(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(model=CHAT, messages=MESSAGES, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_chat_stream_helper(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model=CHAT, messages=MESSAGES) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == LOANS_ANSWER


def test_chat_stream_that_is_left(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": LONG}], stream=True)
    with stream:
        assert next(iter(stream)).choices[0].delta.role == "assistant"
    assert sdk.chat.completions.create(model=CHAT, messages=MESSAGES).choices[0].message.content == LOANS_ANSWER


def test_chat_logprobs(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=CHAT, messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None and len(content) == 3
    assert all(math.isfinite(entry.logprob) and len(entry.top_logprobs) == 2 for entry in content)
    written = b"".join(bytes(entry.bytes or []) for entry in content)
    assert LOANS_ANSWER.encode().startswith(written)


def test_raw_responses(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model=CHAT, messages=MESSAGES)
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content == LOANS_ANSWER
    with sdk.chat.completions.with_streaming_response.create(model=CHAT, messages=MESSAGES, stream=True) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert list(streamed.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_completions(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model=CHAT, prompt=[LOANS, "ping"], n=2, max_tokens=200)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == [LOANS_ANSWER] * 2 + ["pong"] * 2
    stream = sdk.completions.create(model=CHAT, prompt=LOANS, max_tokens=200, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == LOANS_ANSWER
    whole = sdk.completions.create(model=CHAT, prompt=LOANS, max_tokens=1, echo=True, logprobs=None)
    assert whole.choices[0].text.startswith(LOANS)


def test_embeddings_default_to_base64(sdk: openai.OpenAI) -> None:
    packed = sdk.embeddings.create(model=EMBED, input=["图书馆", "river"])
    plain = sdk.embeddings.create(model=EMBED, input=["图书馆", "river"], encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
    raw: Any = sdk.embeddings.create(model=EMBED, input="a", encoding_format="base64").data[0].embedding
    assert len(base64.b64decode(raw)) == 4 * len(plain.data[0].embedding)
    assert packed.usage.total_tokens == packed.usage.prompt_tokens > 0


def test_models(sdk: openai.OpenAI) -> None:
    assert {model.id for model in sdk.models.list()} >= {CHAT, EMBED, RERANK}
    assert sdk.models.retrieve(CHAT).owned_by == "carrel"


def test_errors(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        sdk.chat.completions.create(model=CHAT, messages=MESSAGES, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match=CHAT):
        sdk.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as long:
        sdk.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "很长 " * 9000}], stream=True)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="wrong").models.list()


async def test_async(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=API_KEY) as client:
        stream = await client.chat.completions.create(model=CHAT, messages=MESSAGES, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        embedded = await client.embeddings.create(model=EMBED, input="图书馆")
    assert text == LOANS_ANSWER
    assert len(embedded.data) == 1
