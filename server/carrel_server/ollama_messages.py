"""Messages and tool calls between Ollama's form and OpenAI's, which the engine takes. Knows both; knows no model.

Ollama's calls have arguments as objects and often no ids, and an answer of a tool names the tool; templates of some
models want ids, so they are made here and given to the answers in the order of the calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from carrel.errors import InvalidParamsError
from carrel.outputs import MessageDelta, ToolCallDelta

JsonObject = dict[str, Any]


def to_openai(messages: Sequence[Mapping[str, Any]]) -> list[JsonObject]:
    """
    >>> to_openai([{"role": "tool", "tool_name": "add", "content": "3"}])
    [{'role': 'tool', 'name': 'add', 'content': '3'}]

    Raises:
        InvalidParamsError: a message with images, or a tool call that is none.
    """
    open_calls: list[tuple[str, str]] = []  # (name, id) of the calls without an answer so far
    count = 0
    converted = []
    for index, message in enumerate(messages):
        one = _plain(index, message)
        if one.get("tool_calls"):
            calls = _list_of_calls(index, one["tool_calls"])
            one["tool_calls"] = [_call(index, call, count + i) for i, call in enumerate(calls)]
            count += len(one["tool_calls"])
            open_calls += [(call["function"]["name"], call["id"]) for call in one["tool_calls"]]
        if one.get("role") == "tool":
            _answer_call(one, open_calls)
        converted.append(one)
    return converted


def _plain(index: int, message: Mapping[str, Any]) -> JsonObject:
    """The message under OpenAI's names."""
    if message.get("images"):
        raise InvalidParamsError(f"messages[{index}] holds images; only text is supported.", param="messages")
    renamed = {"tool_name": "name", "thinking": "reasoning_content"}
    return {
        renamed.get(key, key): value for key, value in message.items() if key != "images" and value not in (None, [])
    }


def _list_of_calls(index: int, calls: Any) -> list[Any]:
    if not isinstance(calls, list):
        raise InvalidParamsError(f"messages[{index}].tool_calls must be a list.", param="messages")
    return calls


def _call(index: int, call: Any, number: int) -> JsonObject:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidParamsError(f"messages[{index}] has a tool call without a function name.", param="messages")
    plain = {"name": function["name"], "arguments": function.get("arguments") or {}}
    # Nine letters and digits: Mistral's templates take nothing else.
    return {"id": call.get("id") or f"call{number:05d}", "type": "function", "function": plain}


def _answer_call(message: JsonObject, open_calls: list[tuple[str, str]]) -> None:
    """Give a tool's answer the id of its call: the first one of its name, or simply the first."""
    if not open_calls:
        return
    given = message.get("tool_call_id")
    places = [
        i for i, (name, call) in enumerate(open_calls) if given == call or (not given and name == message.get("name"))
    ]
    name, call = open_calls.pop(places[0] if places else 0)
    message["tool_call_id"] = given or call
    message.setdefault("name", name)


class CallCollector:
    """Pieces of tool calls in, whole calls out: Ollama's streams hold no halves."""

    def __init__(self) -> None:
        self._open: ToolCallDelta | None = None

    def push(self, delta: MessageDelta) -> list[ToolCallDelta]:
        """The calls that are whole now: a call is, when the next one begins."""
        done = []
        for piece in delta.tool_calls:
            if self._open is not None and piece.index == self._open.index:
                self._open.arguments += piece.arguments
                continue
            done += self.flush()
            self._open = ToolCallDelta(piece.index, piece.id, piece.name, piece.arguments)
        return done

    def flush(self) -> list[ToolCallDelta]:
        """The last one: the answer has ended."""
        done, self._open = [] if self._open is None else [self._open], None
        return done


def message_object(content: str, thinking: str, calls: Sequence[ToolCallDelta]) -> JsonObject:
    """Ollama's answer. A call that was cut off has no object of arguments: its text stands in ``content``.

    >>> message_object("", "", [ToolCallDelta(0, "a", "add", '{"x": 1}')])["tool_calls"][0]["function"]["arguments"]
    {'x': 1}
    """
    whole, texts = [], [content]
    for call in calls:
        arguments = _arguments(call.arguments)
        if arguments is None:
            texts.append(f"{call.name}({call.arguments}")
        else:
            function = {"index": call.index, "name": call.name, "arguments": arguments}
            whole.append({"id": call.id, "function": function})
    message: JsonObject = {"role": "assistant", "content": "".join(texts)}
    if thinking:
        message["thinking"] = thinking
    if whole:
        message["tool_calls"] = whole
    return message


def _arguments(text: str) -> JsonObject | None:
    try:
        value = json.loads(text) if text.strip() else {}
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
