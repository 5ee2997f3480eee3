"""How many tokens of an answer were thoughts. Knows that thoughts stand at the beginning; knows no parser."""

from __future__ import annotations

from carrel.outputs import CompletionOutput

from carrel_server.logprobs import TokenBytes


def count_reasoning(tokenizer: TokenBytes, text: str, token_ids: list[int], reasoning: str) -> int:
    """Tokens from the beginning of ``text`` to the end of ``reasoning`` in it."""
    start = text.find(reasoning) if reasoning else -1
    if start < 0:
        return 0
    left = len(text[: start + len(reasoning)].encode())
    for number, token_id in enumerate(token_ids):
        if left <= 0:
            return number
        left -= len(tokenizer.token_bytes(token_id))
    return len(token_ids)


class ReasoningCounter:
    """The same of a stream: keeps the answer until its thoughts are over."""

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._text, self._reasoning = "", ""
        self._token_ids: list[int] = []
        self._is_over = False

    def add(self, choice: CompletionOutput) -> None:
        delta = choice.delta
        if self._is_over or delta is None:
            return
        self._text += choice.text
        self._token_ids += choice.token_ids
        self._reasoning += delta.reasoning
        self._is_over = bool(delta.content or delta.tool_calls)

    @property
    def count(self) -> int:
        return count_reasoning(self._tokenizer, self._text, self._token_ids, self._reasoning)
