"""Token counts as OpenAI reports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from carrel.outputs import RequestOutput


@dataclass(slots=True)
class Usage:
    """Counts of one HTTP request, added up over its prompts and their choices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0  # of the completion's

    def add_prompt(self, output: RequestOutput) -> None:
        """Once for each prompt."""
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens

    def count_tokens(self, output: RequestOutput) -> None:
        """Of the one prompt so far, sequences that ``best_of`` does not return included."""
        self.completion_tokens = output.num_generated_tokens

    def add_tokens(self, output: RequestOutput) -> None:
        """For each output that carries new tokens."""
        self.completion_tokens += sum(len(choice.token_ids) for choice in output.outputs)

    def as_dict(self) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens:
            counts["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return counts
