"""``/tokenize`` and ``/detokenize``, with the model's own tokenizer. Tokenizing leaves the event loop alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from carrel.errors import InvalidParamsError
from carrel.inputs import tokenize_chat
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.chat_call import ChatCall, chat_call
from carrel_server.json_response import JsonResponse, written
from carrel_server.routes.endpoint import post
from carrel_server.schemas.tokenize import DetokenizeBody, TokenizeBody
from carrel_server.service import service_of

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel


async def tokenize(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, TokenizeBody)
    body.check()
    if body.messages is not None:
        call = chat_call(request, service, body.chat_body())
        hosted, ids = call.hosted, await asyncio.to_thread(_encode_chat, call, body)
    else:
        hosted = service.any_model(body.model)
        ids = await asyncio.to_thread(_encode_text, hosted, body)

    def answer() -> dict[str, Any]:
        strings = {"token_strs": hosted.tokenizer.convert_ids_to_tokens(ids)} if body.return_token_strs else {}
        return {"count": len(ids), "max_model_len": hosted.max_model_len, "tokens": ids, **strings}

    return await written(answer, len(ids))


async def detokenize(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, DetokenizeBody)
    tokenizer = service.any_model(body.model).tokenizer
    wrong = [token for token in body.tokens if not 0 <= token < 2**31]
    if wrong:
        raise InvalidParamsError(f"tokens holds {wrong[0]}, which is no token id.", param="tokens")
    text = await asyncio.to_thread(tokenizer.decode, body.tokens, skip_special_tokens=body.skip_special_tokens)
    return JsonResponse({"prompt": text})


def _encode_text(hosted: HostedModel, body: TokenizeBody) -> list[int]:
    assert body.prompt is not None, "TokenizeBody.check saw one of the two"
    return hosted.tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)


def _encode_chat(call: ChatCall, body: TokenizeBody) -> list[int]:
    """The ids that a chat would send to the model."""
    prompt = tokenize_chat(call.hosted, call.body.messages, call.options())
    if body.add_special_tokens is True and prompt.text is not None:
        return call.hosted.tokenizer.encode(prompt.text)
    return prompt.token_ids


ENDPOINTS = (
    post("/tokenize", tokenize, TokenizeBody),
    post("/detokenize", detokenize, DetokenizeBody),
)
