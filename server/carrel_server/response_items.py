"""The output of ``/v1/responses``: items, the response around them, its usage. Knows shapes; knows no events."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from carrel.outputs import ChatMessage, ToolCall

from carrel_server.chat_call import ChatCall
from carrel_server.schemas.responses import ResponsesBody
from carrel_server.usage import Usage

Item = dict[str, Any]
IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"


def text_part(text: str = "", logprobs: Sequence[Any] = ()) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def reasoning_part(text: str = "") -> Item:
    return {"type": "reasoning_text", "text": text}


def message_item(parts: Sequence[Item], status: str) -> Item:
    return {"id": _id("msg"), "type": "message", "status": status, "role": "assistant", "content": list(parts)}


def reasoning_item(parts: Sequence[Item], status: str) -> Item:
    return {"id": _id("rs"), "type": "reasoning", "status": status, "summary": [], "content": list(parts)}


def call_item(call: ToolCall, status: str) -> Item:
    names = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"id": _id("fc"), "type": "function_call", "status": status, **names}


def output_items(message: ChatMessage, status: str, logprobs: Sequence[Any] = ()) -> list[Item]:
    """Thoughts, words, calls; an answer of nothing is a message of nothing. The last item is what was cut off."""
    items = []
    if message.reasoning:
        items.append(reasoning_item([reasoning_part(message.reasoning)], COMPLETED))
    if message.content or not (items or message.tool_calls):
        items.append(message_item([text_part(message.content, logprobs)], COMPLETED))
    items += [call_item(call, COMPLETED) for call in message.tool_calls]
    items[-1]["status"] = status
    return items


def status_of(finish_reason: str | None) -> str:
    return {"length": INCOMPLETE, "abort": "cancelled", "error": "failed", None: IN_PROGRESS}.get(
        finish_reason, COMPLETED
    )


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def response_object(
    call: ChatCall,
    body: ResponsesBody,
    *,
    status: str = IN_PROGRESS,
    output: Sequence[Item] = (),
    usage: Usage | None = None,
    error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole object, as it stands in answers and in events."""
    defaults = call.service.sampling_defaults(call.hosted)
    return {
        "id": call.id,
        "object": "response",
        "created_at": call.created,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == INCOMPLETE else None,
        "instructions": body.instructions,
        "max_output_tokens": call.body.token_limit,
        "metadata": body.metadata or {},
        "model": call.head["model"],
        "output": list(output),
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
        "store": False,
        "temperature": _either(body.temperature, defaults.get("temperature"), 1.0),
        "text": {"format": body.format()},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": _either(body.top_p, defaults.get("top_p"), 1.0),
        "truncation": body.truncation,
        "usage": None if usage is None else usage_object(usage),
    }


def _either(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
