"""``/v1/chat/completions``: messages in, one message or a stream of deltas out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carrel.outputs import CompletionOutput, RequestOutput
from carrel.params import SamplingParams
from fastapi import Request
from starlette.responses import Response

from carrel_server.auth import cache_salt
from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.generation import final_output, started_stream
from carrel_server.json_response import JsonResponse
from carrel_server.logprobs import chat_logprobs
from carrel_server.routes.endpoint import post
from carrel_server.schemas.chat import ChatBody
from carrel_server.service import Service, new_id, service_of
from carrel_server.sse import EventStream
from carrel_server.stream_state import StreamState
from carrel_server.usage import Usage

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel


@dataclass(frozen=True)
class ChatCall:
    """One chat request on its way: what was asked, of which model, under which id."""

    service: Service
    body: ChatBody
    hosted: HostedModel
    id: str
    created: int
    cache_salt: str | None

    @property
    def head(self) -> dict[str, Any]:
        return {"id": self.id, "created": self.created, "model": self.body.model or self.hosted.names[0]}

    def outputs(self) -> AsyncIterator[RequestOutput]:
        body, service = self.body, self.service
        return service.llm.chat(
            body.messages,
            self.params(),
            model=self.hosted.key,
            chat_template_kwargs=body.template_kwargs(service.settings.chat_template_kwargs),
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            request_id=self.id,
            priority=body.priority,
            cache_salt=self.cache_salt,
        )

    def params(self) -> SamplingParams:
        defaults = self.service.sampling_defaults(self.hosted)
        return self.body.sampling_params(defaults, max_tokens=self.body.token_limit, logprobs=self.body.num_logprobs)

    def logprobs(self, state: StreamState | CompletionOutput) -> dict[str, Any] | None:
        if not self.body.logprobs or state.logprobs is None:
            return None
        top = self.body.top_logprobs or 0
        return chat_logprobs(self.hosted.tokenizer, state.token_ids, state.logprobs, top)


async def chat_completions(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, ChatBody)
    body.check()
    hosted = service.model(body.model, "chat")
    call = ChatCall(service, body, hosted, new_id("chatcmpl"), int(time.time()), cache_salt(request, body.cache_salt))
    if not body.stream:
        output = await until_disconnect(request.receive, final_output(call.outputs()))
        return JsonResponse(completion_object(call, output))
    outputs = await until_disconnect(request.receive, started_stream([call.outputs()]))
    return EventStream(chunks(call, outputs), outputs)


def completion_object(call: ChatCall, output: RequestOutput) -> dict[str, Any]:
    usage = Usage()
    usage.add_prompt(output)
    usage.add_tokens(output)
    call.service.metrics.finished(call.hosted.names[0], output, usage.completion_tokens, len(output.outputs))
    choices = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text},
            "logprobs": call.logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        for choice in output.outputs
    ]
    return {"object": "chat.completion", **call.head, "choices": choices, "usage": usage.as_dict()}


async def chunks(
    call: ChatCall, outputs: AsyncIterator[tuple[int, RequestOutput]]
) -> AsyncGenerator[dict[str, Any], None]:
    """First the role, then text, then the reason alone, then (if asked for) the usage alone."""
    states = [StreamState(index) for index in range(call.body.n or 1)]
    usage, last = Usage(), None
    for state in states:
        yield chunk(call, usage, state.index, {"role": "assistant", "content": ""})
    async for _, output in outputs:
        if last is None:
            usage.add_prompt(output)
        last = output
        usage.add_tokens(output)
        for choice in output.outputs:
            for event in choice_chunks(call, usage, states[choice.index], choice):
                yield event
    if last is not None:
        call.service.metrics.finished(call.hosted.names[0], last, usage.completion_tokens, len(states))
    if call.body.include_usage:
        yield {"object": "chat.completion.chunk", **call.head, "choices": [], "usage": usage.as_dict()}


def choice_chunks(call: ChatCall, usage: Usage, state: StreamState, choice: CompletionOutput) -> list[dict[str, Any]]:
    """No chunk for bytes that are held back, one for text, one more for the end."""
    state.add(choice)
    events = []
    if state.has_news(at_end=choice.finished):
        logprobs = call.logprobs(state)
        events.append(chunk(call, usage, state.index, {"content": state.take()}, logprobs=logprobs))
    if choice.finish_reason is not None and state.finish_once(choice):
        extra = {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
        events.append(chunk(call, usage, state.index, {}, **extra))
    return events


def chunk(call: ChatCall, usage: Usage, index: int, delta: dict[str, Any], **extra: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **extra}
    event: dict[str, Any] = {"object": "chat.completion.chunk", **call.head, "choices": [choice]}
    options = call.body.stream_options
    if call.body.include_usage:
        event["usage"] = usage.as_dict() if options is not None and options.continuous_usage_stats else None
    return event


ENDPOINTS = (post("/v1/chat/completions", chat_completions, ChatBody),)
