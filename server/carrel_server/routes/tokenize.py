"""``/tokenize`` and ``/detokenize``, with the model's own tokenizer. Tokenizing leaves the event loop alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from carrel.errors import ChatTemplateError, InvalidParamsError
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.json_response import JsonResponse
from carrel_server.routes.endpoint import post
from carrel_server.schemas.chat import checked_template_kwargs
from carrel_server.schemas.tokenize import DetokenizeBody, TokenizeBody
from carrel_server.service import Service, service_of

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel


async def tokenize(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, TokenizeBody)
    body.check()
    hosted = service.any_model(body.model)
    ids = await asyncio.to_thread(_encode, service, hosted, body)
    answer = {"count": len(ids), "max_model_len": hosted.max_model_len, "tokens": ids}
    if body.return_token_strs:
        answer["token_strs"] = hosted.tokenizer.convert_ids_to_tokens(ids)
    return JsonResponse(answer)


async def detokenize(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, DetokenizeBody)
    tokenizer = service.any_model(body.model).tokenizer
    wrong = [token for token in body.tokens if not 0 <= token < 2**31]
    if wrong:
        raise InvalidParamsError(f"tokens holds {wrong[0]}, which is no token id.", param="tokens")
    text = await asyncio.to_thread(tokenizer.decode, body.tokens, skip_special_tokens=body.skip_special_tokens)
    return JsonResponse({"prompt": text})


def _encode(service: Service, hosted: HostedModel, body: TokenizeBody) -> list[int]:
    special = body.add_special_tokens
    if body.messages is None:
        assert body.prompt is not None, "TokenizeBody.check saw one of the two"
        return hosted.tokenizer.encode(body.prompt, add_special_tokens=special is not False)
    if hosted.chat_template is None:
        raise ChatTemplateError(f"{hosted.names[0]} has no chat template; start with --chat-template FILE.")
    text = hosted.chat_template.render(
        body.messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        **checked_template_kwargs({**service.settings.chat_template_kwargs, **body.chat_template_kwargs}),
    )
    return hosted.tokenizer.encode(text, add_special_tokens=special is True)


ENDPOINTS = (
    post("/tokenize", tokenize, TokenizeBody),
    post("/detokenize", detokenize, DetokenizeBody),
)
