"""What one choice of a stream has not sent yet. Knows deltas; does not know JSON shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

from carrel.outputs import CompletionOutput, LogprobsOnePosition


@dataclass(slots=True)
class StreamState:
    """Tokens whose bytes are no whole character yet have no text; their log probabilities wait here for it."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobsOnePosition] | None = None
    finish_reason: str | None = None
    num_characters: int = 0  # sent so far

    def add(self, choice: CompletionOutput) -> None:
        self.text += choice.text
        self.token_ids += choice.token_ids
        if choice.logprobs is not None:
            self.logprobs = [*(self.logprobs or []), *choice.logprobs]

    def has_news(self, *, at_end: bool) -> bool:
        """Text to send; at the end also log probabilities of tokens without text, such as the end token."""
        return bool(self.text) or (at_end and bool(self.logprobs))

    def take(self) -> str:
        """The text, which now counts as sent, with its tokens."""
        text, self.text = self.text, ""
        self.num_characters += len(text)
        self.token_ids = []
        self.logprobs = None
        return text

    def finish_once(self, choice: CompletionOutput) -> bool:
        """True the first time; a finished choice may stand in later outputs while its siblings go on."""
        first = self.finish_reason is None
        self.finish_reason = choice.finish_reason
        return first
