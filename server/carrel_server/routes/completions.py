"""``/v1/completions``: one or many prompts, as text or token ids, without a chat template."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carrel.outputs import CompletionOutput, RequestOutput
from fastapi import Request
from starlette.responses import Response

from carrel_server.auth import cache_salt
from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.generation import final_outputs, started_stream
from carrel_server.json_response import JsonResponse
from carrel_server.logprobs import completion_logprobs
from carrel_server.routes.endpoint import post
from carrel_server.schemas.completion import DEFAULT_MAX_TOKENS, CompletionBody, Prompt
from carrel_server.service import Service, new_id, service_of
from carrel_server.sse import EventStream
from carrel_server.stream_state import StreamState
from carrel_server.usage import Usage

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel


@dataclass(frozen=True)
class CompletionCall:
    """One completion request on its way; choice ``c`` of prompt ``p`` has the index ``p * n + c``."""

    service: Service
    body: CompletionBody
    hosted: HostedModel
    id: str
    created: int
    cache_salt: str | None

    @property
    def head(self) -> dict[str, Any]:
        model = self.body.model or self.hosted.names[0]
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": model}

    @property
    def n(self) -> int:
        return self.body.n or 1

    def streams(self) -> list[AsyncIterator[RequestOutput]]:
        limit = DEFAULT_MAX_TOKENS if self.body.max_tokens is None else self.body.max_tokens
        defaults = self.service.sampling_defaults(self.hosted)
        params = self.body.sampling_params(defaults, max_tokens=limit, logprobs=self.body.logprobs)
        return [
            self.service.llm.generate(
                prompt,
                params,
                model=self.hosted.key,
                request_id=f"{self.id}-{index}",
                priority=self.body.priority,
                cache_salt=self.cache_salt,
            )
            for index, prompt in enumerate(self.body.prompts)
        ]

    def logprobs(self, state: StreamState | CompletionOutput, *, offset: int = 0) -> dict[str, Any] | None:
        if self.body.logprobs is None or state.logprobs is None:
            return None
        tokenizer, top = self.hosted.tokenizer, self.body.logprobs
        return completion_logprobs(tokenizer, state.token_ids, state.logprobs, top, offset=offset)

    def echo(self, prompt: Prompt) -> str:
        """The prompt's text, if the answer shall begin with it."""
        if not self.body.echo:
            return ""
        if isinstance(prompt, str):
            return prompt
        return self.hosted.tokenizer.decode(prompt, skip_special_tokens=False)


async def completions(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, CompletionBody)
    body.check()
    hosted = service.model(body.model, "chat")
    call = CompletionCall(service, body, hosted, new_id("cmpl"), int(time.time()), cache_salt(request, body.cache_salt))
    if not body.stream:
        outputs = await until_disconnect(request.receive, final_outputs(call.streams()))
        return JsonResponse(completion_object(call, outputs))
    stream = await until_disconnect(request.receive, started_stream(call.streams()))
    return EventStream(chunks(call, stream), stream)


def completion_object(call: CompletionCall, outputs: list[RequestOutput]) -> dict[str, Any]:
    usage, choices = Usage(), []
    for number, (prompt, output) in enumerate(zip(call.body.prompts, outputs, strict=True)):
        usage.add_prompt(output)
        usage.add_tokens(output)
        count_finished(call, output, token_count(output))
        prefix = call.echo(prompt)
        choices += [choice_object(call, number * call.n, prefix, choice) for choice in output.outputs]
    return {**call.head, "choices": choices, "usage": usage.as_dict()}


def choice_object(call: CompletionCall, first_index: int, prefix: str, choice: CompletionOutput) -> dict[str, Any]:
    return {
        "index": first_index + choice.index,
        "text": prefix + choice.text,
        "logprobs": call.logprobs(choice),
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }


def token_count(output: RequestOutput) -> int:
    return sum(len(choice.token_ids) for choice in output.outputs)


def count_finished(call: CompletionCall, output: RequestOutput, num_tokens: int) -> None:
    call.service.metrics.finished(call.hosted.names[0], output, num_tokens, call.n)


class CompletionStream:
    """The state of a stream over all prompts and their choices."""

    def __init__(self, call: CompletionCall) -> None:
        self.call = call
        self.usage = Usage()
        self.states = [StreamState(index) for index in range(len(call.body.prompts) * call.n)]
        self.num_tokens = [0] * len(call.body.prompts)
        self._seen: set[int] = set()

    def events(self, number: int, output: RequestOutput) -> list[dict[str, Any]]:
        """The chunks for one engine output of one prompt."""
        events = self._first(number, output)
        self.usage.add_tokens(output)
        self.num_tokens[number] += token_count(output)
        for choice in output.outputs:
            events += self._choice(self.states[number * self.call.n + choice.index], choice)
        if output.finished:
            count_finished(self.call, output, self.num_tokens[number])
        return events

    def _first(self, number: int, output: RequestOutput) -> list[dict[str, Any]]:
        """On a prompt's first output: count it, and echo it into each of its choices."""
        if number in self._seen:
            return []
        self._seen.add(number)
        self.usage.add_prompt(output)
        prefix = self.call.echo(self.call.body.prompts[number])
        first = number * self.call.n
        return [self._chunk(index, prefix) for index in range(first, first + self.call.n)] if prefix else []

    def _choice(self, state: StreamState, choice: CompletionOutput) -> list[dict[str, Any]]:
        state.add(choice)
        events = []
        if state.has_news(at_end=choice.finished):
            logprobs = self.call.logprobs(state, offset=state.num_characters)
            events.append(self._chunk(state.index, state.take(), logprobs=logprobs))
        if choice.finish_reason is not None and state.finish_once(choice):
            extra = {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
            events.append(self._chunk(state.index, "", **extra))
        return events

    def _chunk(self, index: int, text: str, **extra: Any) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None, **extra}
        event = {**self.call.head, "choices": [choice]}
        options = self.call.body.stream_options
        if self.call.body.include_usage:
            every = options is not None and options.continuous_usage_stats
            event["usage"] = self.usage.as_dict() if every else None
        return event


async def chunks(
    call: CompletionCall, outputs: AsyncIterator[tuple[int, RequestOutput]]
) -> AsyncGenerator[dict[str, Any], None]:
    stream = CompletionStream(call)
    async for number, output in outputs:
        for event in stream.events(number, output):
            yield event
    if call.body.include_usage:
        yield {**call.head, "choices": [], "usage": stream.usage.as_dict()}


ENDPOINTS = (post("/v1/completions", completions, CompletionBody),)
