"""LlamaIndex's messages as the dicts that chat templates and OpenAI's routes read, and carrel's answers as responses.

Both directions stand side by side; nothing here talks to a model.
"""

from __future__ import annotations

import json
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
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json

from carrel.errors import InvalidParamsError
from carrel.outputs import ChatMessage as Message
from carrel.outputs import MessageDelta
from carrel.parsers.message_fold import MessageFold

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
        if not isinstance(block, TextBlock | ThinkingBlock | ToolCallBlock):
            kind = getattr(block, "block_type", type(block).__name__)
            raise InvalidParamsError(f"The model reads text only; leave out the {kind!r} block.", param="messages")
    thoughts = [block.content or "" for block in message.blocks if isinstance(block, ThinkingBlock)]
    calls = [_call_dict(block) for block in message.blocks if isinstance(block, ToolCallBlock)]
    extra = {
        "name": message.additional_kwargs.get("name"),
        "tool_call_id": message.additional_kwargs.get("tool_call_id"),
        "tool_calls": calls or message.additional_kwargs.get("tool_calls"),
        "reasoning_content": "".join(thoughts),
    }
    role = ROLES.get(message.role, message.role.value)
    return {"role": role, "content": message.content or "", **{name: value for name, value in extra.items() if value}}


def _call_dict(block: ToolCallBlock) -> dict[str, Any]:
    given = block.tool_kwargs
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return {
        "id": block.tool_call_id,
        "type": "function",
        "function": {"name": block.tool_name, "arguments": arguments},
    }


# carrel → LlamaIndex. In a stream ``delta`` is the piece and the message, or the text, is all so far.


def to_chat_response(reply: Reply) -> ChatResponse:
    return _chat_response(Message(reply.text, reply.reasoning, list(reply.tool_calls)), None, reply)


def to_completion_response(reply: Reply) -> CompletionResponse:
    return CompletionResponse(text=reply.text, **_metadata(reply))


def to_chat_stream(pieces: Generator[Piece, None, None]) -> Generator[ChatResponse, None, None]:
    for message, piece in _cumulative(pieces):
        yield _chat_response(message, piece, piece.reply)


def to_completion_stream(pieces: Generator[Piece, None, None]) -> Generator[CompletionResponse, None, None]:
    for message, piece in _cumulative(pieces):
        yield CompletionResponse(text=message.content, delta=piece.delta, **_metadata(piece.reply))


async def to_chat_astream(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[ChatResponse, None]:
    async with aclosing(_acumulative(pieces)) as stream:
        async for message, piece in stream:
            yield _chat_response(message, piece, piece.reply)


async def to_completion_astream(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[CompletionResponse, None]:
    async with aclosing(_acumulative(pieces)) as stream:
        async for message, piece in stream:
            yield CompletionResponse(text=message.content, delta=piece.delta, **_metadata(piece.reply))


def _cumulative(pieces: Generator[Piece, None, None]) -> Generator[tuple[Message, Piece], None, None]:
    fold = MessageFold()
    with closing(pieces):
        for piece in pieces:
            fold.add(MessageDelta(piece.delta, piece.reasoning, list(piece.tool_calls)))
            yield fold.message(), piece


async def _acumulative(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[tuple[Message, Piece], None]:
    fold = MessageFold()
    async with aclosing(pieces):
        async for piece in pieces:
            fold.add(MessageDelta(piece.delta, piece.reasoning, list(piece.tool_calls)))
            yield fold.message(), piece


def _chat_response(message: Message, piece: Piece | None, reply: Reply | None) -> ChatResponse:
    metadata = _metadata(reply)
    if piece is not None and piece.reasoning:  # where LlamaIndex's agents look for it
        metadata["additional_kwargs"] = {**metadata.get("additional_kwargs", {}), "thinking_delta": piece.reasoning}
    return ChatResponse(message=_chat_message(message), delta=None if piece is None else piece.delta, **metadata)


def _chat_message(message: Message) -> ChatMessage:
    """Calls stand in blocks and, as LlamaIndex's memories look for them, beside them."""
    calls = [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=read_arguments(call.arguments))
        for call in message.tool_calls
    ]
    thoughts = [ThinkingBlock(content=message.reasoning)] if message.reasoning else []
    text = [TextBlock(text=message.content)] if message.content or not calls else []
    beside = {"tool_calls": [_call_dict(call) for call in calls]} if calls else {}
    return ChatMessage(blocks=[*thoughts, *text, *calls], role=MessageRole.ASSISTANT, additional_kwargs=beside)


def read_arguments(arguments: str) -> dict[str, Any] | str:
    """The arguments of a call; the text itself where it is not, or not yet, a JSON object."""
    try:
        read = json.loads(arguments, strict=False)
    except ValueError:
        return arguments
    return read if isinstance(read, dict) else arguments


def to_selection(block: ToolCallBlock, *, ended: bool) -> ToolSelection:
    """What LlamaIndex calls a tool with; while a call is still being written, as much of it as is there.

    Raises:
        ValueError: the answer has ended and the arguments have not, or they are no object.
    """
    arguments = block.tool_kwargs
    if isinstance(arguments, str) and ended:
        raise ValueError(
            f"The call of {block.tool_name} was cut off, or its arguments are no JSON object: {arguments!r:.200}. "
            "Give more max_tokens."
        )
    if isinstance(arguments, str):
        arguments = _so_far(arguments)
    return ToolSelection(tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=arguments)


def _so_far(arguments: str) -> dict[str, Any]:
    try:
        read = parse_partial_json(arguments)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _metadata(reply: Reply | None) -> dict[str, Any]:
    """Counts where LlamaIndex's token counter looks for them; before the end of a stream there are none."""
    if reply is None:
        return {}
    usage = reply.usage.as_openai()
    counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    raw = {"model": reply.model, "finish_reason": reply.finish_reason, "usage": usage}
    return {"raw": raw, "additional_kwargs": counts}
