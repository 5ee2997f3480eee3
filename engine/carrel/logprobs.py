"""Log probabilities as callers see them: with the tokens' texts. Knows a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from carrel.outputs import Logprob, LogprobsOnePosition
from carrel.step import TokenLogprobs
from carrel.tokenizer import Tokenizer


def named_logprobs(tokenizer: Tokenizer, logprobs: TokenLogprobs) -> LogprobsOnePosition:
    """One position. Its own token stands first and, if it is among the most likely ones too, only once.

    A token that holds part of a character has a replacement character as text; its bytes are
    ``tokenizer.token_bytes(token_id)``.
    """
    return _named(logprobs, _Texts(tokenizer))


def named_prompt_logprobs(tokenizer: Tokenizer, positions: Sequence[TokenLogprobs]) -> list[LogprobsOnePosition | None]:
    """One for each token of a prompt: the first has none, for nothing stands before it."""
    texts = _Texts(tokenizer)
    return [None, *(_named(position, texts) for position in positions)]


class _Texts(dict[int, str]):
    """Texts of tokens, made when they are looked up: in a long prompt the same ones come again and again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        text = self[token_id] = self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        return text


def _named(logprobs: TokenLogprobs, texts: _Texts) -> LogprobsOnePosition:
    own = logprobs.token_ids[0]
    position = {own: Logprob(logprobs.logprobs[0], logprobs.ranks[0], texts[own])}
    for token_id, logprob, rank in zip(logprobs.token_ids, logprobs.logprobs, logprobs.ranks, strict=True):
        if token_id != own:
            position[token_id] = Logprob(logprob, rank, texts[token_id])
    return position
