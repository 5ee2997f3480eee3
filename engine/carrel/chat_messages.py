"""Puts messages into the form that chat templates are written for. Knows OpenAI's format; knows no template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from carrel.errors import RequestError

Message = Mapping[str, Any]
SHORT_ID_LENGTH = 9


def normalize(messages: Sequence[Message], *, knows_developer: bool = False) -> list[dict[str, Any]]:
    """A copy with text as strings, arguments of tool calls as objects, and ``developer`` as ``system`` where needed.

    >>> normalize([{"role": "user", "content": [{"type": "text", "text": "你好"}]}])
    [{'role': 'user', 'content': '你好'}]

    Raises:
        RequestError: a message is not well formed, or holds something other than text.
    """
    if not messages:
        raise RequestError("messages must not be empty.", param="messages")
    chat = [_normalize_one(i, message, knows_developer) for i, message in enumerate(messages)]
    return _with_call_ids(chat)


def _normalize_one(index: int, message: Message, knows_developer: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(
            f"messages[{index}] must be an object with a role and a content, got {message!r:.80}.", param="messages"
        )
    copy = {key: value for key, value in message.items() if value is not None}
    if copy["role"] == "developer" and not knows_developer:
        copy["role"] = "system"
    copy["content"] = _text_of(index, message.get("content"))
    if copy["role"] == "assistant":
        _spell_assistant(copy)
    elif copy["role"] == "function":  # what tools answered before they were called tools
        copy["role"] = "tool"
    _check_tool_calls(index, copy.get("tool_calls"))
    if copy.get("tool_calls"):
        copy["tool_calls"] = [_tool_call(index, call) for call in copy["tool_calls"]]
        copy["content"] = copy["content"] or None  # templates ask `content is none` to find tool calls
    elif copy["content"] is None:
        copy["content"] = ""
    return copy


def _spell_assistant(copy: dict[str, Any]) -> None:
    """Thoughts under the name that templates read, and a call of the older API as one of the newer."""
    thoughts = copy.get("reasoning_content") or copy.get("reasoning")
    if isinstance(thoughts, str) and thoughts:
        copy["reasoning_content"] = thoughts
    call = copy.pop("function_call", None)
    if call is not None and not copy.get("tool_calls"):
        copy["tool_calls"] = [{"function": call}]


def _check_tool_calls(index: int, calls: Any) -> None:
    """A list or nothing, whoever's message it is: templates read the field in all of them."""
    if calls is not None and (not isinstance(calls, Sequence) or isinstance(calls, str)):
        raise RequestError(f"messages[{index}].tool_calls must be a list.", param="messages")


def _text_of(index: int, content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError(f"messages[{index}].content must be a string or a list of parts.", param="messages")
    return "\n".join(_text_of_part(index, part) for part in content)


def _text_of_part(index: int, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if kind not in ("text", "input_text", "output_text", "refusal"):
        raise RequestError(
            f"messages[{index}] holds a part of type {kind!r}; only text is supported.", param="messages"
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise RequestError(f"messages[{index}] holds a {kind} part without a text.", param="messages")
    return text


def _tool_call(index: int, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"messages[{index}] has a tool call without a function name.", param="messages")
    arguments = _arguments(index, function.get("arguments"))
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _with_call_ids(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every call has an id, and a tool's answer that names none gets that of the last open call it can be of."""
    opened: list[tuple[str, str]] = []  # (name, id)
    for index, message in enumerate(chat):
        for place, call in enumerate(message.get("tool_calls") or ()):
            call["id"] = call.get("id") or f"call_{index}_{place}"
            opened.append((call["function"]["name"], call["id"]))
        if message["role"] == "tool":
            if not message.get("tool_call_id"):
                fitting = [item for item in opened if message.get("name") in (None, item[0])]
                message["tool_call_id"] = fitting[0][1] if fitting else f"call_{index}"
            opened = [item for item in opened if item[1] != message["tool_call_id"]]
    return chat


def with_short_ids(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat with ids of calls as Mistral's templates want them: nine letters and digits, the same for the same id.

    >>> chat = [{"role": "tool", "content": "晴", "tool_call_id": "call_1"}]
    >>> len(with_short_ids(chat)[0]["tool_call_id"])
    9
    """
    return [
        {
            **message,
            **({"tool_call_id": _short_id(message["tool_call_id"])} if message.get("tool_call_id") else {}),
            **(
                {"tool_calls": [{**call, "id": _short_id(call["id"])} for call in message["tool_calls"]]}
                if message.get("tool_calls")
                else {}
            ),
        }
        for message in chat
    ]


def _short_id(id_: Any) -> str:
    text = str(id_)
    if len(text) == SHORT_ID_LENGTH and text.isascii() and text.isalnum():
        return text
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:SHORT_ID_LENGTH]


def _arguments(index: int, arguments: Any) -> Any:
    """OpenAI sends JSON in a string; most templates want the object."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        raise RequestError(f"messages[{index}]: a tool call's arguments are not JSON.", param="messages") from None


def argument_spellings(chat: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The chat with arguments as objects, then as JSON text; and with an empty content instead of none."""
    yield chat
    if any(message.get("tool_calls") for message in chat):
        yield [_as_text(message) for message in chat]
        yield [message | {"content": message["content"] or ""} for message in chat]
        yield [_as_text(message) | {"content": message["content"] or ""} for message in chat]


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    spelled = [
        {**call, "function": {**call["function"], "arguments": _to_json(call["function"]["arguments"])}}
        for call in calls
    ]
    return message | {"tool_calls": spelled}


def _to_json(arguments: Any) -> str:
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise RequestError("A tool call's arguments cannot be written as JSON.", param="messages") from None


def continued(chat: list[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
    """The chat with ``mark`` at the end of the last message, to find that place in the rendered text."""
    return [*chat[:-1], chat[-1] | {"content": (chat[-1]["content"] or "") + mark}]
