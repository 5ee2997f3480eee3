"""How large a step of one model can be. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepLimits:
    """
    >>> StepLimits(max_num_seqs=256, max_num_batched_tokens=64, max_model_len=4096).max_tokens
    256
    """

    max_num_seqs: int  # chat requests
    max_num_batched_tokens: int  # a single input to pool may be longer
    max_model_len: int  # tokens of one request

    @property
    def max_tokens(self) -> int:
        """Tokens of the largest step; every sequence can decode in it."""
        return max(self.max_num_batched_tokens, self.max_num_seqs)
