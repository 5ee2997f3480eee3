"""``/v1/completions``: one or many prompts, as text or token ids, without a chat template."""

from __future__ import annotations

from typing import Any

from carrel.outputs import CompletionOutput, RequestOutput
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.chat_stream import FramedStream
from carrel_server.completion_call import CompletionCall, completion_call
from carrel_server.completion_stream import completion_chunks
from carrel_server.disconnect import until_disconnect
from carrel_server.generation import final_outputs, started_stream
from carrel_server.json_response import written
from carrel_server.logprobs import num_entries, prompt_logprobs
from carrel_server.routes.endpoint import post
from carrel_server.schemas.completion import CompletionBody
from carrel_server.schemas.structured import form_named
from carrel_server.service import service_of
from carrel_server.usage import Usage


async def completions(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, CompletionBody)
    with form_named(body.form_field):
        return await _answer(request, completion_call(request, service, body))


async def _answer(request: Request, call: CompletionCall) -> Response:
    if not call.body.stream:
        outputs = await until_disconnect(request.receive, final_outputs(call.outputs()))
        size = sum(num_entries(output, call.body.logprobs) for output in outputs)
        return await written(lambda: completion_object(call, outputs), size)
    stream = await until_disconnect(request.receive, started_stream(call.outputs()))
    return FramedStream(completion_chunks(call, stream), stream)


def completion_object(call: CompletionCall, outputs: list[RequestOutput]) -> dict[str, Any]:
    usage, choices = Usage(), []
    for number, output in enumerate(map(call.shown, outputs)):
        usage.add_prompt(output)
        usage.completion_tokens += output.num_generated_tokens
        call.service.metrics.finished(
            call.hosted.names[0], output, output.num_generated_tokens, max(1, len(output.outputs))
        )
        prefix = call.echo(call.body.prompts[number], output)
        choices += [choice_object(call, number, prefix, output, choice) for choice in output.outputs]
    return {**call.head, "choices": choices, "usage": usage.as_dict()}


def choice_object(
    call: CompletionCall, number: int, prefix: str, output: RequestOutput, choice: CompletionOutput
) -> dict[str, Any]:
    body = call.body
    result = {
        "index": number * call.num_choices + choice.index,
        "text": prefix + choice.text,
        "logprobs": logprobs_object(call, output, choice),
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }
    if body.prompt_logprobs is not None and output.prompt_logprobs is not None:
        result["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
    if body.return_token_ids:
        result |= {"prompt_token_ids": output.prompt_token_ids, "token_ids": choice.token_ids}
    return result


def logprobs_object(call: CompletionCall, output: RequestOutput, choice: CompletionOutput) -> dict[str, Any] | None:
    """Those of the prompt first, if it is echoed."""
    if call.body.logprobs is None or choice.logprobs is None:
        return None
    if not call.echoes_logprobs:
        return call.logprobs(choice.token_ids, choice.logprobs)
    before = output.prompt_logprobs or []
    return call.logprobs([*output.prompt_token_ids, *choice.token_ids], [*before, *choice.logprobs])


ENDPOINTS = (post("/v1/completions", completions, CompletionBody),)
