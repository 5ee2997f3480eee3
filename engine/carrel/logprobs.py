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
    position: LogprobsOnePosition = {}
    for token_id, logprob, rank in zip(logprobs.token_ids, logprobs.logprobs, logprobs.ranks, strict=True):
        if token_id not in position:
            text = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
            position[token_id] = Logprob(logprob, rank, text)
    return position


def named_prompt_logprobs(tokenizer: Tokenizer, positions: Sequence[TokenLogprobs]) -> list[LogprobsOnePosition | None]:
    """One for each token of a prompt: the first has none, for nothing stands before it."""
    return [None, *(named_logprobs(tokenizer, position) for position in positions)]
