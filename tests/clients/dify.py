"""How Dify's plugins read answers, as recorded from ``dify_plugin`` 0.10.2 and the official plugins of August 2026."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import requests

JSON = {"Content-Type": "application/json", "Accept-Charset": "utf-8"}


@dataclass
class Call:
    """A tool call as Dify puts it together."""

    id: str
    name: str = ""
    arguments: str = ""


@dataclass
class Answer:
    """What a stream came to."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


class InvokeError(Exception):
    """What Dify shows to its user."""


def post(url: str, body: bytes, key: str | None, **options: Any) -> requests.Response:
    """``key`` None leaves the header out; "" sends it empty, as some plugins do."""
    authorization = {} if key is None else {"Authorization": f"Bearer {key}" if key else ""}
    return requests.post(url, data=body, headers={**JSON, **authorization}, timeout=(10, 300), **options)


def read_stream(response: requests.Response, delimiter: str = "\n\n") -> Answer:
    """The stream is cut at the delimiter, nothing else: with CRLF it would be one piece, which is no JSON.

    Raises:
        InvokeError: a status other than 200, a piece that is no JSON, or an error in the middle.
    """
    if response.status_code != 200:
        raise InvokeError(f"API request failed with status code {response.status_code}: {response.text}")
    response.encoding = "utf-8"
    answer = Answer()
    for piece in response.iter_lines(decode_unicode=True, delimiter=delimiter):
        piece = piece.strip()
        if not piece or piece.startswith(":"):
            continue
        data = piece.removeprefix("data:").lstrip()
        if data == "[DONE]":
            continue
        try:
            add_chunk(answer, json.loads(data))
        except json.JSONDecodeError as error:
            raise InvokeError(f"Non-JSON encountered: {data:.100}") from error
    return answer


def add_chunk(answer: Answer, chunk: dict[str, Any]) -> None:
    if chunk.get("error") and not chunk.get("choices"):
        raise InvokeError(str(chunk["error"]))
    answer.usage = chunk.get("usage") or answer.usage
    for choice in chunk["choices"][:1]:
        answer.finish_reason = choice.get("finish_reason")
        delta = choice.get("delta") or {"content": choice.get("text", "")}
        answer.reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
        answer.text += delta.get("content") or ""
        for call in delta.get("tool_calls") or []:
            add_call(answer, call)


def add_call(answer: Answer, delta: dict[str, Any]) -> None:
    """A delta without an id belongs to the last call, whatever its index says; a new id is a new call."""
    call_id = delta.get("id")
    if call_id and call_id not in [call.id for call in answer.calls]:
        answer.calls.append(Call(call_id))
    call = next((call for call in answer.calls if call.id == call_id), answer.calls[-1])
    function = delta.get("function") or {}
    call.name = function.get("name") or call.name
    call.arguments += function.get("arguments") or ""


def ranked(response: requests.Response, documents: list[str], threshold: float | None) -> list[tuple[int, str, float]]:
    """``openai_api_compatible``'s reading: the raw score, the threshold, then its own sorting."""
    if response.status_code != 200:
        raise InvokeError(response.text)
    rows = [(row["index"], documents[row["index"]], row["relevance_score"]) for row in response.json()["results"]]
    kept = [row for row in rows if threshold is None or row[2] >= threshold]
    return sorted(kept, key=lambda row: -row[2])


def document_texts(response: requests.Response, documents: list[str]) -> list[str]:
    """``gpustack``'s and ``localai``'s reading: ``document.text`` wherever there is a ``document``."""
    rows = response.json()["results"]
    return [row["document"]["text"] if "document" in row else documents[row["index"]] for row in rows]
