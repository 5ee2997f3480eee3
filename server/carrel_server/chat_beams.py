"""Beam search for a chat. Knows how a conversation becomes a prompt; the search is the engine's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from carrel.chat_options import ChatOptions
from carrel.inputs import Messages, TokenizedPrompt, resolve_max_tokens, tokenize_chat
from carrel.outputs import ChatMessage, RequestOutput

from carrel_server.schemas.beam import beam_params
from carrel_server.schemas.chat import ChatBody
from carrel_server.service import Service

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel


async def chat_beams(
    service: Service,
    hosted: HostedModel,
    body: ChatBody,
    messages: Messages,
    options: ChatOptions,
    *,
    request_id: str,
    cache_salt: str | None,
) -> AsyncGenerator[RequestOutput, None]:
    """One output with a message for each beam, the best first. Beams are text: nothing in them is taken apart.

    Raises:
        InvalidParamsError: a field that beams cannot follow.
    """

    def tokenize() -> tuple[TokenizedPrompt, int]:
        prompt = tokenize_chat(hosted, messages, options)
        return prompt, resolve_max_tokens(hosted, len(prompt.token_ids), body.token_limit)

    prompt, max_tokens = await asyncio.to_thread(tokenize)
    found = service.llm.beam_search(
        prompt.token_ids,
        beam_params(body, max_tokens),
        model=hosted.key,
        request_id=request_id,
        priority=body.priority,
        cache_salt=cache_salt,
    )
    async with aclosing(found) as outputs:
        async for output in outputs:
            for choice in output.outputs:
                choice.message = ChatMessage(content=choice.text)
            yield output
