"""What carrel answers, held to the SDK's own types: whatever OpenAI's specification requires is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from reading_room import API_KEY, CHAT, EMBED, LOANS, THINK, TWO_CITIES, WEATHER_TOOL

QUESTIONS = {"words": LOANS, "thoughts": THINK, "calls": TWO_CITIES}
FUNCTION: Any = {"type": "function", **WEATHER_TOOL["function"]}


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


def post(http: httpx.Client, path: str, **body: Any) -> httpx.Response:
    answer = http.post(path, json={"model": CHAT, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return answer


def events(answer: httpx.Response) -> Iterator[Any]:
    for event in answer.text.split("\n\n"):
        data = event.rpartition("data: ")[2]
        if data not in ("", "[DONE]"):
            yield json.loads(data)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_chat(http: httpx.Client, question: str) -> None:
    body = {"messages": [{"role": "user", "content": question}], "tools": [WEATHER_TOOL]}
    answer = post(http, "/v1/chat/completions", **body, logprobs=True, top_logprobs=2).json()
    ChatCompletion.model_validate(answer, strict=True)
    assert "refusal" in answer["choices"][0]["message"] and "refusal" in answer["choices"][0]["logprobs"]
    chunks = list(events(post(http, "/v1/chat/completions", **body, stream=True, logprobs=True, top_logprobs=1)))
    assert chunks
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_responses(http: httpx.Client, question: str) -> None:
    body = {"input": question, "tools": [FUNCTION], "instructions": "简短"}
    Response.model_validate(post(http, "/v1/responses", **body).json())
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    kinds = [adapter.validate_python(event).type for event in events(post(http, "/v1/responses", **body, stream=True))]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def test_the_others(http: httpx.Client) -> None:
    Completion.model_validate(post(http, "/v1/completions", prompt=LOANS, max_tokens=3, logprobs=1).json(), strict=True)
    CreateEmbeddingResponse.model_validate(post(http, "/v1/embeddings", input=LOANS, model=EMBED).json(), strict=True)
    for card in http.get("/v1/models").json()["data"]:
        Model.model_validate(card, strict=True)
