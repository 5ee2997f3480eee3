"""Ollama's ``/api/chat`` and ``/api/generate``: a conversation or a prompt in, one object or lines of them out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from carrel.outputs import ChatMessage, CompletionOutput, MessageDelta, RequestMetrics, RequestOutput, ToolCallDelta
from fastapi import Request
from starlette.responses import Response

from carrel_server.auth import cache_salt
from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.errors import HttpError
from carrel_server.generation import final_output, started_stream
from carrel_server.json_response import JsonResponse, written
from carrel_server.logprobs import chat_logprobs, num_entries
from carrel_server.ndjson import LineStream
from carrel_server.ollama_messages import CallCollector, message_object, to_openai
from carrel_server.ollama_models import Found, find_model
from carrel_server.routes.endpoint import post
from carrel_server.schemas.ollama import OllamaChatBody, OllamaGenerateBody, OllamaGenerationBody
from carrel_server.schemas.structured import form_named
from carrel_server.schemas.thinking import over, switch
from carrel_server.schemas.tools import read_tools
from carrel_server.service import Service, service_of

if TYPE_CHECKING:
    from carrel.params import SamplingParams

BodyT = TypeVar("BodyT", bound=OllamaGenerationBody)


@dataclass(frozen=True)
class OllamaCall(ABC, Generic[BodyT]):
    """One request on its way."""

    service: Service
    body: BodyT
    found: Found
    cache_salt: str | None
    started: int  # ns on the monotonic clock

    @abstractmethod
    def outputs(self) -> AsyncIterator[RequestOutput]:
        """What the engine writes."""

    @abstractmethod
    def part(self, content: str = "", thinking: str = "", calls: Sequence[ToolCallDelta] = ()) -> dict[str, Any]:
        """The fields that hold (a piece of) the answer."""

    def line(self, **fields: Any) -> dict[str, Any]:
        return {"model": self.found.name, "created_at": now(), **fields}

    def params(self) -> SamplingParams:
        return self.body.sampling_params(self.service.sampling_defaults(self.found.hosted))

    def template_kwargs(self) -> dict[str, Any]:
        """The server's defaults, under the model's alias, under what the request says."""
        alias = {} if self.found.thinks is None else switch(self.found.thinks)
        return over(over(self.service.settings.chat_template_kwargs, alias), self.body.thinking())

    def chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> AsyncIterator[RequestOutput]:
        if self.body.thinks and self.found.hosted.reasoning_parser in (None, "none"):
            raise HttpError(400, f'"{self.found.name}" does not support thinking', param="think")
        return self.service.llm.chat(
            messages,
            self.params(),
            model=self.found.hosted.key,
            tools=tools or None,
            chat_template_kwargs=self.template_kwargs(),
            cache_salt=self.cache_salt,
        )

    def logprobs(self, choice: CompletionOutput) -> list[dict[str, Any]]:
        if choice.logprobs is None:
            return []
        tokenizer, top = self.found.hosted.tokenizer, self.body.top_logprobs or 0
        entries: list[dict[str, Any]] = chat_logprobs(tokenizer, choice.token_ids, choice.logprobs, top)["content"]
        return entries

    def end(self, output: RequestOutput, num_tokens: int) -> dict[str, Any]:
        """Why it ended, and what it took."""
        self.service.metrics.finished(self.found.hosted.names[0], output, num_tokens, 1)
        return {
            "done": True,
            "done_reason": output.outputs[0].finish_reason,
            **durations(output.metrics, time.monotonic_ns() - self.started),
            "prompt_eval_count": len(output.prompt_token_ids),
            "eval_count": num_tokens,
        }

    async def answer(self, request: Request, *, empty: bool) -> Response:
        """``empty``: nothing to answer, which means loading a model, or forgetting it with ``keep_alive: 0``."""
        self.body.check_keep_alive()
        if empty:
            reason = "unload" if self.body.unloads else "load"
            return JsonResponse(self.line(**self.part(), done=True, done_reason=reason))
        with form_named("format"):
            return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        if not self.body.stream:
            output = await until_disconnect(request.receive, final_output(self.outputs()))
            return await written(lambda: self.whole(output), num_entries(output, self.body.top_logprobs))
        outputs = await until_disconnect(request.receive, started_stream([self.outputs()]))
        return LineStream(lines(self, outputs), outputs)

    def whole(self, output: RequestOutput) -> dict[str, Any]:
        choice = output.outputs[0]
        said = choice.message or ChatMessage(content=choice.text)
        calls = [ToolCallDelta(i, call.id, call.name, call.arguments) for i, call in enumerate(said.tool_calls)]
        logprobs = self.logprobs(choice)
        extra = {"logprobs": logprobs} if logprobs else {}
        part = self.part(said.content, said.reasoning, calls)
        return self.line(**part, **extra, **self.end(output, len(choice.token_ids)))


class ChatCall(OllamaCall[OllamaChatBody]):
    def outputs(self) -> AsyncIterator[RequestOutput]:
        return self.chat(to_openai(self.body.messages), read_tools(self.body.tools, None).tools)

    def part(self, content: str = "", thinking: str = "", calls: Sequence[ToolCallDelta] = ()) -> dict[str, Any]:
        return {"message": message_object(content, thinking, calls)}


class GenerateCall(OllamaCall[OllamaGenerateBody]):
    """A prompt in the model's chat template; as it stands if ``raw``, or if the model has none."""

    def outputs(self) -> AsyncIterator[RequestOutput]:
        body, hosted = self.body, self.found.hosted
        if body.raw or (hosted.chat_template is None and not body.system):
            salt = self.cache_salt
            return self.service.llm.generate(body.prompt, self.params(), model=hosted.key, cache_salt=salt)
        system = [{"role": "system", "content": body.system}] if body.system else []
        return self.chat([*system, {"role": "user", "content": body.prompt}], ())

    def part(self, content: str = "", thinking: str = "", calls: Sequence[ToolCallDelta] = ()) -> dict[str, Any]:
        assert not calls, "a request without tools"
        return {"response": content, **({"thinking": thinking} if thinking else {})}


async def chat(request: Request) -> Response:
    call = ChatCall(*await read_call(request, OllamaChatBody))
    return await call.answer(request, empty=not call.body.messages)


async def generate(request: Request) -> Response:
    call = GenerateCall(*await read_call(request, OllamaGenerateBody))
    call.body.check()
    return await call.answer(request, empty=not call.body.prompt)


async def read_call(request: Request, schema: type[BodyT]) -> tuple[Service, BodyT, Found, str | None, int]:
    started, service = time.monotonic_ns(), service_of(request)
    body = await read_body(request, schema)
    return service, body, find_model(service, body, "chat"), cache_salt(request, None), started


async def lines(
    call: OllamaCall[Any], outputs: AsyncIterator[tuple[int, RequestOutput]]
) -> AsyncGenerator[dict[str, Any], None]:
    """A line for each piece of thoughts, text or calls; the last one has no text, and says how it went."""
    calls, num_tokens = CallCollector(), 0
    logprobs: list[dict[str, Any]] = []
    async for _, output in outputs:
        choice = output.outputs[0]
        num_tokens += len(choice.token_ids)
        logprobs += call.logprobs(choice)
        delta = MessageDelta(content=choice.text) if choice.delta is None else choice.delta
        whole = calls.push(delta) + (calls.flush() if choice.finished else [])
        if delta.content or delta.reasoning or whole:
            extra = {"logprobs": logprobs} if logprobs else {}
            yield call.line(**call.part(delta.content, delta.reasoning, whole), **extra, done=False)
            logprobs = []
        if choice.finished:
            extra = {"logprobs": logprobs} if logprobs else {}
            yield call.line(**call.part(), **extra, **call.end(output, num_tokens))


def durations(times: RequestMetrics | None, total: int) -> dict[str, int]:
    """Nanoseconds. The model is loaded already, so "loading" is the time in the queue; clients divide by the last."""
    start = times.arrival_time if times else 0.0
    scheduled = (times.first_scheduled_time if times else None) or start
    first = (times.first_token_time if times else None) or scheduled
    end = (times.finished_time if times else None) or first
    return {
        "total_duration": total,
        "load_duration": nanoseconds(scheduled - start),
        "prompt_eval_duration": nanoseconds(first - scheduled),
        "eval_duration": max(1, nanoseconds(end - first)),
    }


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def now() -> str:
    """RFC 3339 in UTC, with nanoseconds as Go writes them."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


ENDPOINTS = (
    post("/api/chat", chat, OllamaChatBody),
    post("/api/generate", generate, OllamaGenerateBody),
)
