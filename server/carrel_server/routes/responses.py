"""``/v1/responses``: OpenAI's newer face of a chat. Nothing is stored: each request brings the whole conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from carrel.outputs import LogprobsOnePosition, RequestOutput
from fastapi import Request
from pydantic import ValidationError
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.chat_call import ChatCall, chat_call, final_usage
from carrel_server.disconnect import until_disconnect
from carrel_server.errors import describe, validation_error
from carrel_server.generation import StartedStream, final_output, started_stream
from carrel_server.json_response import dumps, written
from carrel_server.logprobs import num_entries
from carrel_server.reasoning_tokens import ReasoningCounter
from carrel_server.response_events import Event, ResponseEvents
from carrel_server.response_items import output_items, response_object, status_of
from carrel_server.routes.endpoint import post
from carrel_server.schemas.chat import ChatBody
from carrel_server.schemas.responses import ResponsesBody
from carrel_server.schemas.structured import form_named
from carrel_server.service import service_of
from carrel_server.sse import EventStream
from carrel_server.usage import Usage


async def responses(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, ResponsesBody)
    with _form_named(body):
        call = chat_call(request, service, _as_chat(body), prefix="resp_")
        return await _answer(request, call, body)


def _form_named(body: ResponsesBody) -> AbstractContextManager[None]:
    """``text.format`` is what a chat calls ``response_format``."""
    if body.format().get("type") == "text":
        return form_named(body.form_field)
    return form_named("text.format", "response_format.json_schema", "response_format")


async def _answer(request: Request, call: ChatCall, body: ResponsesBody) -> Response:
    if not body.stream:
        output = await until_disconnect(request.receive, final_output(call.outputs()))
        size = num_entries(output, call.body.num_logprobs)
        return await written(lambda: finished_response(call, body, output), size)
    outputs = await until_disconnect(request.receive, started_stream([call.outputs()]))
    return ResponseStream(ResponseWriter(call, body), outputs)


def _as_chat(body: ResponsesBody) -> ChatBody:
    try:
        return body.to_chat()
    except ValidationError as error:
        raise validation_error(error) from None


def finished_response(call: ChatCall, body: ResponsesBody, output: RequestOutput) -> dict[str, Any]:
    (choice,) = output.outputs
    status = status_of(choice.finish_reason)
    logprobs = (call.logprobs(choice.token_ids, choice.logprobs) or {"content": []})["content"]
    items = output_items(call.shape.parts(choice), status, logprobs)
    return response_object(call, body, status=status, output=items, usage=final_usage(call, output))


class ResponseWriter:
    """The events of one response."""

    def __init__(self, call: ChatCall, body: ResponsesBody) -> None:
        self._call, self._body = call, body
        self._events = ResponseEvents()
        self._counter = ReasoningCounter(call.hosted.tokenizer)
        self._usage = Usage()
        self._token_ids: list[int] = []  # without text yet
        self._logprobs: list[LogprobsOnePosition] = []

    async def write(self, outputs: AsyncIterator[tuple[int, RequestOutput]]) -> AsyncGenerator[Event, None]:
        for kind in ("created", "in_progress"):
            yield self._events.event(f"response.{kind}", response=response_object(self._call, self._body))
        async for _, output in outputs:
            for event in self._news(output):
                yield event

    def failure(self, error: Exception) -> Iterator[Event]:
        """An event for those who look for errors, and one for those who look for the end."""
        described: Mapping[str, Any] = describe(error)[1]["error"]
        fields = {name: described[name] for name in ("message", "param")}
        yield self._events.event("error", code=str(described["code"]), **fields)
        error_object = {"code": "server_error", "message": described["message"]}
        yield self._end("failed", error_object)

    def _news(self, output: RequestOutput) -> Iterator[Event]:
        if not self._usage.prompt_tokens:
            self._usage.add_prompt(output)
        self._usage.count_tokens(output)
        for choice in output.outputs:
            delta = self._call.shape.news(choice)
            self._counter.add(choice)
            self._token_ids += choice.token_ids
            self._logprobs += choice.logprobs or []
            yield from self._events.deltas(delta, self._take_logprobs() if delta.content else ())
            if choice.finish_reason is not None:
                status = status_of(choice.finish_reason)
                yield from self._events.finish(status, self._take_logprobs())
                self._usage.reasoning_tokens = self._counter.count
                self._call.service.metrics.finished(
                    self._call.hosted.names[0], output, self._usage.completion_tokens, 1
                )
                yield self._end(status)

    def _end(self, status: str, error: dict[str, Any] | None = None) -> Event:
        response = response_object(
            self._call, self._body, status=status, output=self._events.output, usage=self._usage, error=error
        )
        kind = status if status in ("completed", "incomplete") else "failed"
        return self._events.event(f"response.{kind}", response=response)

    def _take_logprobs(self) -> list[Any]:
        token_ids, self._token_ids = self._token_ids, []
        positions, self._logprobs = self._logprobs, []
        return (self._call.logprobs(token_ids, positions) or {"content": []})["content"] if positions else []


class ResponseStream(EventStream):
    """Events with their names before them, and no ``[DONE]``."""

    last = b""

    def __init__(self, writer: ResponseWriter, outputs: StartedStream) -> None:
        super().__init__(writer.write(outputs), outputs)
        self._writer = writer

    def encode(self, event: Any) -> bytes:
        name: str = event["type"]
        return b"event: " + name.encode() + b"\ndata: " + dumps(event) + b"\n\n"

    def encode_error(self, error: Exception) -> bytes:
        return b"".join(self.encode(event) for event in self._writer.failure(error))


ENDPOINTS = (post("/v1/responses", responses, ResponsesBody),)
