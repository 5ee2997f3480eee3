"""``/v1/chat/completions``: messages in, one message or a stream of deltas out."""

from __future__ import annotations

from typing import Any

from carrel.outputs import CompletionOutput, RequestOutput
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.chat_call import ChatCall, chat_call, final_usage
from carrel_server.chat_shapes import message_of
from carrel_server.chat_stream import FramedStream, chat_chunks
from carrel_server.disconnect import until_disconnect
from carrel_server.generation import final_output, started_stream
from carrel_server.json_response import written
from carrel_server.logprobs import num_entries, prompt_logprobs
from carrel_server.routes.endpoint import post
from carrel_server.schemas.chat import ChatBody
from carrel_server.schemas.structured import form_named
from carrel_server.service import service_of


async def chat_completions(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, ChatBody)
    with form_named(body.form_field):
        return await _answer(request, chat_call(request, service, body))


async def _answer(request: Request, call: ChatCall) -> Response:
    if not call.body.stream:
        output = await until_disconnect(request.receive, final_output(call.outputs()))
        return await written(lambda: completion_object(call, output), num_entries(output, call.body.num_logprobs))
    outputs = await until_disconnect(request.receive, started_stream([call.outputs()]))
    return FramedStream(chat_chunks(call, outputs), outputs)


def completion_object(call: ChatCall, output: RequestOutput) -> dict[str, Any]:
    usage = final_usage(call, output)
    answer = {
        "object": "chat.completion",
        **call.head,
        "choices": [choice_object(call, choice) for choice in output.outputs],
        "usage": usage.as_dict(),
    }
    if call.body.return_token_ids:
        answer["prompt_token_ids"] = output.prompt_token_ids
    if output.prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
    return answer


def choice_object(call: ChatCall, choice: CompletionOutput) -> dict[str, Any]:
    has_calls = bool(message_of(choice).tool_calls)
    result = {
        "index": choice.index,
        "message": call.shape.message(choice),
        "logprobs": call.logprobs(choice.token_ids, choice.logprobs),
        "finish_reason": call.shape.finish_reason(choice.finish_reason, has_calls=has_calls),
        "stop_reason": choice.stop_reason,
    }
    return {**result, "token_ids": choice.token_ids} if call.body.return_token_ids else result


ENDPOINTS = (post("/v1/chat/completions", chat_completions, ChatBody),)
