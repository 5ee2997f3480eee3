"""carrel's records as the server's JSON, both directions side by side. Knows the routes' bodies, sends nothing.

A pair ``…_body`` and ``…_reply`` stands for each route: what is sent, what is read out of the answer.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from carrel.config import Task
from carrel.errors import InvalidParamsError, ModelNotFoundError
from carrel.outputs import ChatMessage, MessageDelta, RerankResult, ToolCall, ToolCallDelta
from carrel.parsers.message_fold import MessageFold

from carrel_client.backend import EmbedOptions, ModelInfo, Piece, Reply, RerankOptions, TextRequest, Usage
from carrel_client.errors import ServerError

Json = dict[str, Any]

# /v1/chat/completions and /v1/completions


def text_path(request: TextRequest) -> str:
    return "/v1/completions" if isinstance(request.prompt, str) else "/v1/chat/completions"


def text_body(request: TextRequest, *, stream: bool) -> Json:
    body: Json = {**_model(request.model), **_prompt_body(request), **request.options}
    if isinstance(request.prompt, str) and "max_tokens" not in body:
        message = "A text completion over HTTP stops at 16 tokens when nothing is said: set max_tokens."
        raise InvalidParamsError(message, param="max_tokens")
    if request.chat.tools:
        body["parallel_tool_calls"] = request.chat.parallel_tool_calls
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _model(name: str | None) -> Json:
    """Nothing when there is no name: the server takes its first model for the task."""
    return {} if name is None else {"model": name}


def _prompt_body(request: TextRequest) -> Json:
    if isinstance(request.prompt, str):
        return {"prompt": request.prompt}
    body: Json = {"messages": [dict(message) for message in request.prompt]}
    chat = request.chat
    if chat.chat_template_kwargs:
        body["chat_template_kwargs"] = dict(chat.chat_template_kwargs)
    if chat.tools:
        body |= {"tools": list(chat.tools), "tool_choice": chat.tool_choice}
    return body


def text_reply(answer: Json) -> Reply:
    choice = answer["choices"][0]
    message = _message(choice["message"]) if "message" in choice else ChatMessage(choice["text"])
    return Reply.of(message, choice["finish_reason"], usage_reply(answer["usage"]), answer["model"])


def _message(message: Json) -> ChatMessage:
    calls = [
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    return ChatMessage(message.get("content") or "", message.get("reasoning") or "", calls)


def _news(choice: Json) -> MessageDelta:
    """What a chunk brings of a chat or of a text."""
    delta = choice.get("delta")
    if delta is None:
        return MessageDelta(choice["text"] or "")
    calls = [_call_news(call) for call in delta.get("tool_calls") or ()]
    return MessageDelta(delta.get("content") or "", delta.get("reasoning") or "", calls)


def _call_news(call: Json) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(call["index"], call.get("id"), function.get("name"), function.get("arguments") or "")


def usage_reply(usage: Json) -> Usage:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(usage["prompt_tokens"], usage.get("completion_tokens") or 0, cached)


class StreamReader:
    """Reads the chunks of one streamed answer; ``end`` joins what was read."""

    def __init__(self) -> None:
        self._fold = MessageFold()
        self._finish_reason: str | None = None
        self._usage = Usage(0, 0)
        self._model = ""

    @property
    def complete(self) -> bool:
        return self._finish_reason is not None

    def pieces(self, events: Iterable[str]) -> Iterator[Piece]:
        """
        Raises:
            ServerError: the answer failed after its first bytes were sent.
        """
        for data in events:
            chunk = json.loads(data)
            if "error" in chunk:
                message, code = error_message(chunk, "The server failed in the middle of the answer.")
                raise ServerError(message, code=code)
            piece = self._read(chunk)
            if piece is not None:
                yield piece

    def _read(self, chunk: Json) -> Piece | None:
        self._model = chunk.get("model") or self._model
        if chunk.get("usage"):
            self._usage = usage_reply(chunk["usage"])
        for choice in chunk.get("choices", [])[:1]:
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            if news := _news(choice):
                self._fold.add(news)
                return Piece(news.content, reasoning=news.reasoning, tool_calls=tuple(news.tool_calls))
        return None

    def end(self) -> Piece:
        return Piece("", Reply.of(self._fold.message(), self._finish_reason, self._usage, self._model))


# /tokenize


def tokenize_body(request: TextRequest, model: str) -> Json:
    """No special tokens: a template writes its own, a text is counted as it is."""
    return {"model": model, **_prompt_body(request), "add_special_tokens": False}


def tokenize_reply(answer: Json) -> list[int]:
    return list(answer["tokens"])


# /v1/embeddings

MAX_INPUTS = 2048  # texts in one request: OpenAI's number, and what carrel's server takes unless it is told otherwise


def embed_parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in as many requests as they need."""
    for start in range(0, len(texts), MAX_INPUTS):
        yield texts[start : start + MAX_INPUTS]


def embed_body(texts: Sequence[str], options: EmbedOptions) -> Json:
    body: Json = {"input": list(texts), "encoding_format": "base64", "input_type": options.input_type}
    body |= _model(options.model)
    if options.dimensions is not None:
        body["dimensions"] = options.dimensions
    if options.truncate:
        body["truncate_prompt_tokens"] = -1
    return body


def embed_reply(answer: Json) -> list[list[float]]:
    rows = sorted(answer["data"], key=lambda row: int(row["index"]))
    return [_vector(row["embedding"]) for row in rows]


def _vector(embedding: str | list[float]) -> list[float]:
    """Base64 of little-endian float32, or the plain list that a server without base64 sends."""
    if isinstance(embedding, str):
        return [float(x) for x in np.frombuffer(base64.b64decode(embedding), dtype="<f4")]
    return embedding


# /v1/rerank


def rerank_body(query: str, documents: Sequence[str], options: RerankOptions) -> Json:
    body: Json = {**_model(options.model), "query": query, "documents": list(documents)}
    return body if options.top_n is None else {**body, "top_n": options.top_n}


def rerank_reply(answer: Json, documents: Sequence[str]) -> list[RerankResult]:
    return [_ranked(row, documents) for row in answer["results"]]


def _ranked(row: Json, documents: Sequence[str]) -> RerankResult:
    score = float(row["relevance_score"])
    return RerankResult(row["index"], documents[row["index"]], score, float(row.get("raw_score", score)))


# /v1/models


def model_reply(answer: Json, task: Task, model: str | None) -> ModelInfo:
    """The entry of that name, or the first one that does the task.

    Raises:
        ModelNotFoundError: the server has no such model; the message lists what it has.
    """
    entries = answer["data"]
    for entry in entries:
        if entry["id"] == model or (model is None and entry.get("task", task) == task):
            can = entry.get("capabilities") or ()  # another server does not say: its models chat, call no tools
            has_chat_template = "chat" in can or "completion" not in can
            return ModelInfo(entry["id"], entry.get("max_model_len"), has_chat_template, "tools" in can)
    there = ", ".join(f"{entry['id']} ({entry.get('task', 'no task')})" for entry in entries) or "none"
    raise ModelNotFoundError(f"The server has no {task} model{f' {model!r}' if model else ''}; it has: {there}.")


def error_message(answer: Any, fallback: str) -> tuple[str, str | int | None]:
    """Message and code out of an error body, OpenAI's shape or FastAPI's."""
    if isinstance(answer, Mapping):
        error = answer.get("error", answer.get("detail"))
        if isinstance(error, Mapping) and error.get("message"):
            return str(error["message"]), error.get("code")
        if isinstance(error, str):
            return error, None
    return fallback, None
