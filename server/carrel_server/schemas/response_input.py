"""The input of ``/v1/responses`` as the messages of a chat. Knows OpenAI's items; knows no template.

An assistant's turn comes as several items – thoughts, words, calls –, and is one message of a chat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from carrel.errors import InvalidParamsError

Item = Mapping[str, Any]
ROLES = frozenset({"user", "system", "developer", "assistant"})


def to_messages(instructions: str | None, given: str | Sequence[Any]) -> list[dict[str, Any]]:
    """
    >>> to_messages("简短回答。", "你好")
    [{'role': 'system', 'content': '简短回答。'}, {'role': 'user', 'content': '你好'}]

    Raises:
        InvalidParamsError: an item that is no part of a conversation, or of a kind that carrel does not have.
    """
    conversation = _Conversation()
    if instructions:
        conversation.messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        conversation.messages.append({"role": "user", "content": given})
        return conversation.messages
    for index, item in enumerate(given):
        conversation.add(f"input[{index}]", item)
    return conversation.messages


class _Conversation:
    """Collects messages; ``_turn`` is the assistant's message that the last items belong to."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._turn: dict[str, Any] | None = None
        self._readers: Mapping[str, Callable[[str, Item], None]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._call,
            "function_call_output": self._result,
        }

    def add(self, place: str, item: Any) -> None:
        kind = item.get("type", "message") if isinstance(item, Mapping) else None
        reader = self._readers.get(kind) if isinstance(kind, str) else None
        if reader is None:
            known = ", ".join(self._readers)
            raise _wrong(f"{place} is of type {kind!r:.80}; there are {known}.")
        reader(place, item)

    def _message(self, place: str, item: Item) -> None:
        role = item.get("role")
        if role not in ROLES:
            raise _wrong(f"{place}.role must be one of {', '.join(sorted(ROLES))}, got {role!r:.80}.")
        content = _text(f"{place}.content", item.get("content"))
        if role != "assistant":
            self._say({"role": role, "content": content})
            return
        turn = self._assistant(fresh=self._turn is not None and self._turn.get("content") is not None)
        turn["content"] = content

    def _reasoning(self, place: str, item: Item) -> None:
        """The model's own words; the summary where there are no others."""
        parts = item.get("content") or item.get("summary") or []
        text = _text(place, parts, kinds=("reasoning_text", "summary_text", "text"))
        turn = self._assistant(fresh=True)
        if text:
            turn |= {"reasoning": text, "reasoning_content": text}

    def _call(self, place: str, item: Item) -> None:
        names = {name: item.get(name) for name in ("call_id", "name", "arguments")}
        for name, value in names.items():
            if not isinstance(value, str):
                raise _wrong(f"{place}.{name} must be text.")
        function = {"name": names["name"], "arguments": names["arguments"]}
        calls = self._assistant().setdefault("tool_calls", [])
        calls.append({"id": names["call_id"], "type": "function", "function": function})

    def _result(self, place: str, item: Item) -> None:
        if not isinstance(item.get("call_id"), str):
            raise _wrong(f"{place}.call_id must be text.")
        content = _text(f"{place}.output", item.get("output"))
        self._say({"role": "tool", "tool_call_id": item["call_id"], "content": content})

    def _say(self, message: dict[str, Any]) -> None:
        self._turn = None
        self.messages.append(message)

    def _assistant(self, *, fresh: bool = False) -> dict[str, Any]:
        if fresh or self._turn is None:
            self._turn = {"role": "assistant", "content": None}
            self.messages.append(self._turn)
        return self._turn


def _text(place: str, content: Any, kinds: Sequence[str] = ("input_text", "output_text", "text", "refusal")) -> str:
    """Text, or the text of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _wrong(f"{place} must be text, or a list of parts.")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, Mapping) else None
        if kind not in kinds or not isinstance(text, str):
            raise _wrong(f"{place} holds a part of type {kind!r:.80}; only text is supported.")
        texts.append(text)
    return "\n".join(texts)


def _wrong(message: str) -> InvalidParamsError:
    return InvalidParamsError(message, param="input")
