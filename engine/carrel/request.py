"""A request inside the engine: token ids in, token ids or one vector out. Knows no text and no tokenizer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum

from carrel.grammar import Grammar
from carrel.outputs import FinishReason
from carrel.params import PoolingParams, SamplingParams


class RequestStatus(IntEnum):
    """Everything after PREEMPTED is terminal."""

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED_STOPPED = 3
    FINISHED_LENGTH = 4
    FINISHED_ABORTED = 5
    FINISHED_ERROR = 6

    @property
    def finished(self) -> bool:
        return self > RequestStatus.PREEMPTED


FINISH_REASONS: dict[RequestStatus, FinishReason] = {
    RequestStatus.FINISHED_STOPPED: "stop",
    RequestStatus.FINISHED_LENGTH: "length",
    RequestStatus.FINISHED_ABORTED: "abort",
    RequestStatus.FINISHED_ERROR: "error",
}


@dataclass(slots=True, eq=False)
class Request:
    """One sequence to generate, or one input to pool.

    There are no phases: ``num_computed_tokens`` catches up with ``num_tokens``. Exactly one of ``sampling_params`` and
    ``pooling_params`` is set. Between two steps of a decoding request, with one of them in flight::

        prompt_token_ids        output_token_ids    placeholder
        ├───────────────────────┼──────────────────┼───┤
        ├ num_computed_tokens ─────────────────────┤ the next step computes the placeholder, whatever it turns out to be
    """

    request_id: str
    model: str  # key of the hosted model
    prompt_token_ids: list[int]
    sampling_params: SamplingParams | None = None
    pooling_params: PoolingParams | None = None
    token_type_ids: list[int] | None = None  # segments of a pair, for encoders that have them
    wants_spans: bool = False  # of a pair, where the answer starts and ends, beside the score
    eos_token_ids: frozenset[int] = frozenset()
    max_tokens: int = 1  # resolved: at least 1, fits the context
    seed: int = 0  # resolved: sampling depends on (seed, position) alone
    grammar: Grammar | None = None  # the form that the output must have, compiled
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()  # token sequences that never appear in the output
    priority: int = 0  # lower goes first
    cache_salt: str | None = None  # requests of other salts never share blocks
    arrival_time: float = field(default_factory=time.monotonic)

    # Set by the scheduler alone.
    order: int = 0  # of acceptance; decides among equal priorities
    status: RequestStatus = RequestStatus.WAITING
    output_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0  # tokens whose KV is in the cache, or will be when the steps in flight are done
    num_output_placeholders: int = 0  # tokens that steps in flight sample: they exist, and are not known here yet
    block_ids: list[int] = field(default_factory=list)  # of its KV blocks, while it runs; the KV cache appends to it
    num_prefill_tokens: int = 0  # tokens it had when it was admitted, last time; what comes after is decode
    num_prompt_logprobs: int = 0  # prompt tokens, from the second on, whose log probabilities are known
    num_cached_tokens: int = 0  # of the prompt, found in the prefix cache when first scheduled
    num_preemptions: int = 0
    stop_reason: int | str | None = None
    end_token_ids: frozenset[int] = field(init=False)  # tokens that may end it: end of sequence and stop tokens
    first_scheduled_time: float | None = None
    first_token_time: float | None = None

    def __post_init__(self) -> None:
        assert (self.sampling_params is None) != (self.pooling_params is None), "a request samples or pools"
        assert self.prompt_token_ids, "an empty prompt is refused before it becomes a request"
        self.end_token_ids = self.eos_token_ids.union(
            self.sampling_params.stop_token_ids if self.sampling_params else ()
        )

    @property
    def is_pooling(self) -> bool:
        return self.pooling_params is not None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens that the host knows."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether log probabilities of its prompt are asked for and not all known: it computes the prompt itself."""
        params = self.sampling_params
        if params is None or params.prompt_logprobs is None:
            return False
        return self.num_prompt_logprobs < len(self.prompt_token_ids) - 1

    def num_prompt_logits(self, start: int, end: int) -> int:
        """How many of the tokens [start, end), from the first on, are to give logits for the prompt's next token."""
        return max(0, min(end, len(self.prompt_token_ids) - 1) - start) if self.lacks_prompt_logprobs else 0

    @property
    def needs_host_tokens(self) -> bool:
        """Whether sampling its next token takes more of its tokens so far than their number."""
        params = self.sampling_params
        return params is not None and (params.has_penalties or self.reads_output)

    @property
    def reads_output(self) -> bool:
        """Whether what may be drawn next depends on which tokens were drawn: a grammar, bad words of several tokens."""
        return self.grammar is not None or any(len(word) > 1 for word in self.bad_words_token_ids)

    @property
    def finish_reason(self) -> FinishReason | None:
        return FINISH_REASONS.get(self.status)

    def token_ids(self, start: int, end: int) -> list[int]:
        """Tokens [start, end) of prompt and output, without joining the whole of both."""
        split = len(self.prompt_token_ids)
        if end <= split:
            return self.prompt_token_ids[start:end]
        if start >= split:
            return self.output_token_ids[start - split : end - split]
        return self.prompt_token_ids[start:] + self.output_token_ids[: end - split]
