"""LangChain's messages as the dicts that chat templates and OpenAI's routes read, and carrel's answers as messages.

Both directions stand side by side; nothing here talks to a model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from carrel.errors import InvalidParamsError
from carrel_client import Piece, Reply, Usage
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

# LangChain → carrel


def to_dicts(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """
    >>> to_dicts([SystemMessage("简短回答。"), HumanMessage("你好")])
    [{'role': 'system', 'content': '简短回答。'}, {'role': 'user', 'content': '你好'}]

    Raises:
        InvalidParamsError: a message holds something that is not text.
    """
    return [_to_dict(message) for message in messages]


def _to_dict(message: BaseMessage) -> dict[str, Any]:
    result: dict[str, Any] = {"role": _role(message), "content": _text(message)}
    if message.name:
        result["name"] = message.name
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage) and message.tool_calls:
        result["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return result


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in ((HumanMessage, "user"), (AIMessage, "assistant"), (SystemMessage, "system")):
        if isinstance(message, kind):
            return role
    if isinstance(message, ToolMessage):
        return "tool"
    raise InvalidParamsError(f"A {message.type} message has no place in a conversation.", param="messages")


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_block_text(block) for block in message.content)


def _block_text(block: str | dict[Any, Any]) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type")
    if kind == "text":
        return str(block["text"])
    if kind in ("tool_use", "tool_call"):  # stands in message.tool_calls too
        return ""
    raise InvalidParamsError(f"The model reads text only; leave out the {kind!r} block.", param="messages")


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)}
    return {"id": call["id"], "type": "function", "function": function}


# carrel → LangChain


def to_result(reply: Reply) -> ChatResult:
    message = AIMessage(
        content=reply.text, response_metadata=_metadata(reply), usage_metadata=_usage_metadata(reply.usage)
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def to_chunk(piece: Piece) -> ChatGenerationChunk:
    """Usage and metadata stand on the last chunk alone: LangChain adds chunks up, and would add them twice."""
    if piece.reply is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=piece.delta))
    last = AIMessageChunk(
        content="",
        response_metadata=_metadata(piece.reply),
        usage_metadata=_usage_metadata(piece.reply.usage),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=last)


def _metadata(reply: Reply) -> dict[str, Any]:
    return {"finish_reason": reply.finish_reason, "model_name": reply.model, "model_provider": "carrel"}


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )
