"""Who answers in ``carrel chat --base-url``: a server with OpenAI's API. Knows HTTP and SSE; knows no terminal."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from carrel.errors import CarrelError, RequestError

from carrel_server.cli.talker import Messages, Piece, Wishes

TIMEOUT = 600.0  # seconds without a byte


class HttpTalker:
    """A server at ``base_url``, with or without ``/v1``; without ``model`` its first chat model.

    Raises:
        CarrelError: nobody answers there, or not with a list of models.
    """

    def __init__(self, base_url: str, api_key: str | None, model: str | None, wishes: Wishes) -> None:
        self._url = urlsplit(base_url if "://" in base_url else f"http://{base_url}")
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise CarrelError(f"{base_url!r} is no URL such as http://127.0.0.1:8000.")
        self._prefix = self._url.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._wishes = wishes
        self.place = f"{self._url.scheme}://{self._url.netloc}{self._prefix}"
        self.name = model or self._first_model()

    def answer(self, messages: Messages) -> Generator[Piece, None, None]:
        body = {"model": self.name, "messages": list(messages), "stream": True, **self._wishes.sampling()}
        kwargs = self._wishes.template_kwargs()
        if kwargs:
            body["chat_template_kwargs"] = kwargs
        with self._request("POST", "/v1/chat/completions", body) as response:
            for event in events(response):
                if "error" in event:
                    raise CarrelError(_message(event))
                for choice in event.get("choices") or []:
                    yield _piece(choice)

    def _first_model(self) -> str:
        with self._request("GET", "/v1/models") as response:
            models = _read_json(response.read()).get("data") or []
        chats = [model for model in models if model.get("task", "chat") == "chat"]
        if not chats:
            raise CarrelError(f"{self.place} serves no chat model.")
        return str(chats[0]["id"])

    @contextmanager
    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[HTTPResponse]:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        assert self._url.hostname, "checked at the beginning"
        connection = kind(self._url.hostname, self._url.port, timeout=TIMEOUT)
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            connection.request(method, self._prefix + path, data, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.status, response.read())
            yield response
        except (OSError, HTTPException) as error:
            raise CarrelError(f"Nobody answers properly at {self.place}: {error}.") from error
        finally:
            connection.close()


def events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The objects of a stream of server-sent events."""
    for line in response:
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield _read_json(data)


def _piece(choice: dict[str, Any]) -> Piece:
    delta = choice.get("delta") or {}
    thought = delta.get("reasoning") or delta.get("reasoning_content") or ""
    return Piece(delta.get("content") or "", thought, choice.get("finish_reason"))


def _refusal(status: int, body: bytes) -> CarrelError:
    """A 4xx is the request's own fault, so the conversation may go on without it."""
    kind = RequestError if 400 <= status < 500 and status not in (401, 403, 404) else CarrelError
    try:
        return kind(_message(_read_json(body)))
    except CarrelError:
        return kind(f"The server answers with status {status}.")


def _message(body: dict[str, Any]) -> str:
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    if not message:
        raise CarrelError("The server does not say what is wrong.")
    return str(message)


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        raise CarrelError("The server does not answer with JSON; is the URL that of an OpenAI API?") from None
    return value if isinstance(value, dict) else {}
