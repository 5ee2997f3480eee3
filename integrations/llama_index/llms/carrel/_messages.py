"""LlamaIndex's messages as the dicts that chat templates and OpenAI's routes read, and carrel's answers as responses.

Both directions stand side by side; nothing here talks to a model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from typing import Any

from carrel_client import Piece, Reply
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
)

from carrel.errors import InvalidParamsError

ROLES = {MessageRole.DEVELOPER: "system", MessageRole.CHATBOT: "assistant", MessageRole.MODEL: "assistant"}

# LlamaIndex → carrel


def to_dicts(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """
    >>> to_dicts([ChatMessage("简短回答。", role="system"), ChatMessage("你好")])
    [{'role': 'system', 'content': '简短回答。'}, {'role': 'user', 'content': '你好'}]

    Raises:
        InvalidParamsError: a message holds something that is not text.
    """
    return [_to_dict(message) for message in messages]


def _to_dict(message: ChatMessage) -> dict[str, Any]:
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            kind = getattr(block, "block_type", type(block).__name__)
            raise InvalidParamsError(f"The model reads text only; leave out the {kind!r} block.", param="messages")
    role = ROLES.get(message.role, message.role.value)
    extra = {
        name: message.additional_kwargs[name]
        for name in ("name", "tool_call_id", "tool_calls")
        if message.additional_kwargs.get(name)
    }
    return {"role": role, "content": message.content or "", **extra}


# carrel → LlamaIndex. In a stream ``delta`` is the piece and the message, or the text, is all so far.


def to_chat_response(reply: Reply) -> ChatResponse:
    return _chat_response(reply.text, None, reply)


def to_completion_response(reply: Reply) -> CompletionResponse:
    return _completion_response(reply.text, None, reply)


def to_chat_stream(pieces: Generator[Piece, None, None]) -> Generator[ChatResponse, None, None]:
    for text, piece in _cumulative(pieces):
        yield _chat_response(text, piece.delta, piece.reply)


def to_completion_stream(pieces: Generator[Piece, None, None]) -> Generator[CompletionResponse, None, None]:
    for text, piece in _cumulative(pieces):
        yield _completion_response(text, piece.delta, piece.reply)


async def to_chat_astream(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[ChatResponse, None]:
    async with aclosing(_acumulative(pieces)) as stream:
        async for text, piece in stream:
            yield _chat_response(text, piece.delta, piece.reply)


async def to_completion_astream(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[CompletionResponse, None]:
    async with aclosing(_acumulative(pieces)) as stream:
        async for text, piece in stream:
            yield _completion_response(text, piece.delta, piece.reply)


def _cumulative(pieces: Generator[Piece, None, None]) -> Generator[tuple[str, Piece], None, None]:
    text = ""
    with closing(pieces):
        for piece in pieces:
            text += piece.delta
            yield text, piece


async def _acumulative(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[tuple[str, Piece], None]:
    text = ""
    async with aclosing(pieces):
        async for piece in pieces:
            text += piece.delta
            yield text, piece


def _chat_response(text: str, delta: str | None, reply: Reply | None) -> ChatResponse:
    message = ChatMessage(text, role=MessageRole.ASSISTANT)
    return ChatResponse(message=message, delta=delta, **_metadata(reply))


def _completion_response(text: str, delta: str | None, reply: Reply | None) -> CompletionResponse:
    return CompletionResponse(text=text, delta=delta, **_metadata(reply))


def _metadata(reply: Reply | None) -> dict[str, Any]:
    """Counts where LlamaIndex's token counter looks for them; before the end of a stream there are none."""
    if reply is None:
        return {}
    usage = reply.usage.as_openai()
    counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    raw = {"model": reply.model, "finish_reason": reply.finish_reason, "usage": usage}
    return {"raw": raw, "additional_kwargs": counts}
