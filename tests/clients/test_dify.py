"""Dify's requests, byte for byte as its plugins send them, read as its plugins read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dify import InvokeError, document_texts, post, ranked, read_stream
from reading_room import (
    API_KEY,
    BOOK,
    BOOK_SCHEMA,
    CHAT,
    EMBED,
    LOANS,
    LOANS_ANSWER,
    RERANK,
    THINK,
    THOUGHT,
    THOUGHT_ANSWER,
    TWO_CITIES,
    WEATHER,
    WEATHER_TOOL,
)

CHECK = b'{"model": "tiny-chat", "max_tokens": 5, "messages": [{"role": "user", "content": "ping"}]}'
COMPLETION_CHECK = b'{"model": "tiny-chat", "max_tokens": 5, "prompt": "ping"}'
STREAM_CHECK = (
    b'{"model": "tiny-chat", "max_tokens": 10, "stream": true, "messages": [{"role": "user", "content": "ping"}]}'
)
SETTINGS = {
    "temperature": 0.7,
    "top_p": 0.9,
    "max_tokens": 512,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "stop": ["Observation:"],
    "user": "abc-123",
    "response_format": {"type": "text"},
}
THINKING = {
    "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
    "thinking": {"type": "disabled"},
    "enable_thinking": False,
    "reasoning_format": "none",
    "reasoning_effort": "low",
}
DOCUMENTS = [
    "Carson City is the capital of Nevada.",
    "借期三十天。",
    "The Northern Mariana Islands: Saipan is the capital.",
]
RERANKING = {"model": RERANK, "query": "What is the capital of the United States?", "documents": DOCUMENTS, "top_n": 3}


def chat(question: str, **fields: Any) -> bytes:
    messages = [{"role": "system", "content": "你是图书馆员。"}, {"role": "user", "content": question}]
    return json.dumps({"model": CHAT, "messages": messages, **fields}).encode()


def streamed(url: str, body: bytes, key: str | None = API_KEY) -> Any:
    with post(url, body, key, stream=True) as response:
        return read_stream(response)


# --- the checks of openai_api_compatible, when a model is added -------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [("/chat/completions", CHECK, "chat.completion"), ("/completions", COMPLETION_CHECK, "text_completion")],
)
def test_llm_check(url: str, path: str, body: bytes, kind: str) -> None:
    response = post(f"{url}/v1{path}", body, API_KEY)
    assert response.status_code == 200
    assert response.json()["object"] == kind


def test_llm_check_with_streaming(url: str) -> None:
    assert streamed(f"{url}/v1/chat/completions", STREAM_CHECK).text == "pong"


@pytest.mark.parametrize("extra", [{}, {"encoding_format": "float"}])
def test_embedding_check_and_call(url: str, extra: dict[str, str]) -> None:
    """One text a request, one after another."""
    lengths = set()
    for text in ("ping", "借期三十天,可以续借一次。", "\n第二段\n"):
        body = json.dumps({"model": EMBED, "input": [text], **extra}).encode()
        answer = post(f"{url}/v1/embeddings", body, API_KEY).json()
        lengths.add(len(answer["data"][0]["embedding"]))
        assert answer["model"] == EMBED
        assert answer["usage"]["total_tokens"] > 0
    assert len(lengths) == 1


@pytest.mark.parametrize("endpoint", ["", "/v1", "/v1/"])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.8])
def test_rerank_check_and_call(url: str, endpoint: str, threshold: float | None) -> None:
    response = post((url + endpoint).rstrip("/") + "/rerank", json.dumps(RERANKING).encode(), API_KEY)
    rows = ranked(response, DOCUMENTS, threshold)
    assert all(0.0 <= score <= 1.0 for _, _, score in rows)
    if not threshold:
        assert sorted(index for index, _, _ in rows) == [0, 1, 2]
        assert len({score for _, _, score in rows}) == 3, "older plugins scale them: they must differ"


def test_rerank_without_top_n(url: str) -> None:
    for top_n in (None, 0, 50):
        response = post(f"{url}/v1/rerank", json.dumps({**RERANKING, "top_n": top_n}).encode(), API_KEY)
        assert len(ranked(response, DOCUMENTS, None)) == 3


# --- calls ------------------------------------------------------------------------------------------------------------


def test_llm_call(url: str) -> None:
    response = post(f"{url}/v1/chat/completions", chat(LOANS, stream=False, **SETTINGS), API_KEY)
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == LOANS_ANSWER
    assert answer["usage"]["prompt_tokens"] > 0 and answer["usage"]["completion_tokens"] > 0


def test_llm_call_streamed(url: str) -> None:
    body = chat(LOANS, stream=True, stream_options={"include_usage": True}, **SETTINGS)
    answer = streamed(f"{url}/v1/chat/completions", body)
    assert answer.text == LOANS_ANSWER
    assert answer.finish_reason == "stop"
    assert answer.usage is not None and answer.usage["completion_tokens"] > 0


def test_completion_streamed(url: str) -> None:
    body = json.dumps({"model": CHAT, "prompt": LOANS, "stream": True, "max_tokens": 200}).encode()
    assert streamed(f"{url}/v1/completions", body).text == LOANS_ANSWER


def test_tool_calls_streamed(url: str) -> None:
    """Deltas without an id go to the last call, so calls must come one after the other."""
    body = chat(TWO_CITIES, stream=True, tools=[WEATHER_TOOL], tool_choice="auto", **SETTINGS)
    answer = streamed(f"{url}/v1/chat/completions", body)
    assert [(call.name, json.loads(call.arguments)["city"]) for call in answer.calls] == [
        ("get_weather", "北京"),
        ("get_weather", "上海"),
    ]
    assert (answer.finish_reason, answer.text.strip()) == ("tool_calls", "")


def test_tool_calls_whole(url: str) -> None:
    body = chat(WEATHER, stream=False, tools=[WEATHER_TOOL], tool_choice="auto", **SETTINGS)
    choice = post(f"{url}/v1/chat/completions", body, API_KEY).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and not choice["message"]["content"]
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "北京"}


@pytest.mark.parametrize(
    "form",
    [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "book", "schema": BOOK_SCHEMA}}],
)
def test_json_as_the_user_chose(url: str, form: dict[str, Any]) -> None:
    body = chat(BOOK, stream=True, **{**SETTINGS, "response_format": form})
    answer = streamed(f"{url}/v1/chat/completions", body)
    assert json.loads(answer.text) == {"title": "红楼梦", "year": 1791}


def test_thoughts_streamed(url: str) -> None:
    answer = streamed(f"{url}/v1/chat/completions", chat(THINK, stream=True, **SETTINGS))
    assert (answer.reasoning.strip(), answer.text.strip()) == (THOUGHT, THOUGHT_ANSWER)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_in_extended_mode(url: str, stream: bool) -> None:
    body = chat(LOANS, stream=stream, **SETTINGS, **THINKING)
    if stream:
        answer = streamed(f"{url}/v1/chat/completions", body)
        assert (answer.text, answer.reasoning) == (LOANS_ANSWER, "")
    else:
        message = post(f"{url}/v1/chat/completions", body, API_KEY).json()["choices"][0]["message"]
        assert message["content"] == LOANS_ANSWER


def test_the_stream_is_cut_at_two_line_feeds(url: str) -> None:
    with post(f"{url}/v1/chat/completions", chat(LOANS, stream=True), API_KEY, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        raw = response.content
    assert b"\r" not in raw
    pieces = raw.split(b"\n\n")
    assert pieces[-2:] == [b"data: [DONE]", b""]
    assert all(piece.startswith(b"data: {") and b"\n" not in piece for piece in pieces[:-2])


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "any"])
def test_without_a_key_every_header_will_do(open_url: str, key: str | None) -> None:
    assert post(f"{open_url}/v1/chat/completions", CHECK, key).status_code == 200
    assert post(f"{open_url}/v1/rerank", json.dumps(RERANKING).encode(), key).status_code == 200


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_with_a_key_the_user_reads_why(url: str, key: str | None) -> None:
    with pytest.raises(InvokeError, match=r'401: \{"error":\{"message":"'):
        streamed(f"{url}/v1/chat/completions", STREAM_CHECK, key)


def test_errors_reach_the_user_as_they_are(url: str) -> None:
    with pytest.raises(InvokeError, match=r"404.*no-such-model.*tiny-chat"):
        streamed(f"{url}/v1/chat/completions", chat(LOANS, stream=True).replace(b"tiny-chat", b"no-such-model"))
    with pytest.raises(InvokeError, match=r"400.*maximum context length"):
        streamed(f"{url}/v1/chat/completions", chat("很长" * 4000, stream=True))


# --- other providers --------------------------------------------------------------------------------------------------


def test_gpustack(url: str) -> None:
    """URL with or without /v1 becomes {root}/v1/…; reads ``document.text`` when there is a ``document``."""
    assert post(f"{url}/v1/chat/completions", CHECK, API_KEY).status_code == 200
    for extra in ({}, {"return_documents": False}):
        response = post(f"{url}/v1/rerank", json.dumps({**RERANKING, **extra}).encode(), API_KEY)
        assert sorted(document_texts(response, DOCUMENTS)) == sorted(DOCUMENTS)


def test_localai(open_url: str) -> None:
    """Root URLs, one string to embed, the fixed key 123."""
    response = post(f"{open_url}/rerank", json.dumps(RERANKING).encode(), "123")
    assert sorted(document_texts(response, DOCUMENTS)) == sorted(DOCUMENTS)
    body = json.dumps({"model": EMBED, "input": "图书馆"}).encode()
    assert post(f"{open_url}/embeddings", body, "123").json()["data"][0]["embedding"]


def test_xinference(url: str) -> None:
    body = {**RERANKING, "return_documents": True, "max_chunks_per_doc": None, "return_len": None}
    response = post(f"{url}/v1/rerank", json.dumps(body).encode(), API_KEY)
    assert document_texts(response, DOCUMENTS)[0] in DOCUMENTS


def test_ollama(open_url: str) -> None:
    """Root URL; lines of JSON; ``/api/rerank`` reads ``document`` as a string."""
    messages = [{"role": "user", "content": LOANS}]
    body = {"model": CHAT, "stream": True, "options": {"temperature": 0.1, "num_predict": 200}, "messages": messages}
    with post(f"{open_url}/api/chat", json.dumps(body).encode(), None, stream=True) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
    assert "".join(line["message"]["content"] for line in lines) == LOANS_ANSWER
    assert lines[-1]["done"] and lines[-1]["prompt_eval_count"] > 0 and lines[-1]["eval_count"] > 0
    body = {"model": CHAT, "stream": False, "prompt": LOANS, "options": {}}
    assert post(f"{open_url}/api/generate", json.dumps(body).encode(), None).json()["response"] == LOANS_ANSWER
    body = {"model": EMBED, "input": ["图书馆", "river"], "options": {"num_ctx": 512}}
    assert len(post(f"{open_url}/api/embed", json.dumps(body).encode(), None).json()["embeddings"]) == 2
    body = {"model": RERANK, "query": "期限", "documents": DOCUMENTS, "top_n": 2}
    results = post(f"{open_url}/api/rerank", json.dumps(body).encode(), None).json()["results"]
    assert [DOCUMENTS[row["index"]] for row in results] == [row["document"] for row in results]
