"""LangChain's messages as the dicts that chat templates and OpenAI's routes read, and carrel's answers as messages.

Both directions stand side by side; nothing here talks to a model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from carrel.errors import InvalidParamsError
from carrel.outputs import ToolCall as Call
from carrel_client import Piece, Reply, Usage
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

# Blocks that stand in ``tool_calls`` or ``reasoning_content``, too, or that no template can write.
BESIDE_TEXT = ("tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "reasoning")

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
    if isinstance(message, AIMessage):
        if message.tool_calls:  # invalid ones stay behind: no chat template can write arguments that are no JSON
            result["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        if reasoning := _reasoning(message):
            result["reasoning_content"] = reasoning
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
    if kind in BESIDE_TEXT:
        return ""
    raise InvalidParamsError(f"The model reads text only; leave out the {kind!r} block.", param="messages")


def _reasoning(message: AIMessage) -> str:
    """Thoughts, as this adapter gives them: beside the content, or with ``output_version="v1"`` in it."""
    beside = message.additional_kwargs.get("reasoning_content")
    if isinstance(beside, str):
        return beside
    blocks = message.content if isinstance(message.content, list) else []
    thoughts = [block for block in blocks if isinstance(block, dict) and block.get("type") == "reasoning"]
    return "".join(str(block.get("reasoning") or "") for block in thoughts)


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)}
    return {"id": call["id"], "type": "function", "function": function}


# carrel → LangChain


def to_result(reply: Reply) -> ChatResult:
    calls = [_read_call(call) for call in reply.tool_calls]
    message = AIMessage(
        content=reply.text,
        additional_kwargs=_thoughts(reply.reasoning),
        tool_calls=[call for call in calls if call["type"] == "tool_call"],
        invalid_tool_calls=[call for call in calls if call["type"] == "invalid_tool_call"],
        response_metadata=_metadata(reply),
        usage_metadata=_usage_metadata(reply.usage),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def to_chunk(piece: Piece, *, as_blocks: bool = False) -> ChatGenerationChunk:
    """Usage and metadata stand on the last chunk alone: LangChain adds chunks up, and would add them twice.

    ``as_blocks`` is ``output_version="v1"``.
    """
    if piece.reply is None:
        chunks = [
            tool_call_chunk(id=call.id, name=call.name, args=call.arguments, index=call.index)
            for call in piece.tool_calls
        ]
        news = AIMessageChunk(
            content=piece.delta, additional_kwargs=_thoughts(piece.reasoning), tool_call_chunks=chunks
        )
        if as_blocks:
            news.content = _blocks(piece)
            news.response_metadata = {"output_version": "v1"}
        return ChatGenerationChunk(message=news)
    last = AIMessageChunk(
        content="",
        response_metadata=_metadata(piece.reply),
        usage_metadata=_usage_metadata(piece.reply.usage),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=last)


def _blocks(piece: Piece) -> list[str | dict[Any, Any]]:
    """LangChain numbers thoughts and text itself, and would add a call to the block that has the call's number."""
    blocks: list[str | dict[Any, Any]] = []
    if piece.reasoning:
        blocks.append({"type": "reasoning", "reasoning": piece.reasoning, "index": "lc_reasoning"})
    if piece.delta:
        blocks.append({"type": "text", "text": piece.delta, "index": "lc_text"})
    for call in piece.tool_calls:
        new = {"id": call.id, "name": call.name, "args": call.arguments}
        blocks.append({"type": "tool_call_chunk", **new, "index": f"lc_call_{call.index}"})
    return blocks


def _thoughts(reasoning: str) -> dict[str, Any]:
    """Where LangChain looks for thoughts when it makes content blocks."""
    return {"reasoning_content": reasoning} if reasoning else {}


def _read_call(call: Call) -> ToolCall | InvalidToolCall:
    """Arguments that were cut off, or are no object, make an invalid call: an agent can tell the model so."""
    try:
        arguments = json.loads(call.arguments, strict=False)
    except ValueError as error:
        return invalid_tool_call(id=call.id, name=call.name, args=call.arguments, error=f"Not JSON: {error}")
    if not isinstance(arguments, dict):
        return invalid_tool_call(id=call.id, name=call.name, args=call.arguments, error="Not a JSON object")
    return tool_call(id=call.id, name=call.name, args=arguments)


def _metadata(reply: Reply) -> dict[str, Any]:
    return {"finish_reason": reply.finish_reason, "model_name": reply.model, "model_provider": "carrel"}


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )
