"""What crosses the border between scheduler, device and caller in one step of the engine. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from carrel.errors import CarrelError
from carrel.outputs import FinishReason, FloatArray, RequestMetrics
from carrel.request import Request


@dataclass(slots=True)
class ScheduledRequest:
    """Compute tokens ``[request.num_computed_tokens, … + num_scheduled_tokens)`` of this request.

    The worker reads the request and never writes it. It samples only if ``samples``: when the step reaches the last
    token that the request has.
    """

    request: Request
    num_scheduled_tokens: int
    # KV blocks for tokens 0, 1, …, maybe for more tokens than this step computes; empty when pooling. The scheduler
    # goes on to append to this list: the worker reads it during the step and keeps no reference.
    block_table: list[int] = field(default_factory=list)

    @property
    def samples(self) -> bool:
        request = self.request  # spelled out, for every decoding request asks this in every step
        num_tokens = len(request.prompt_token_ids) + len(request.output_token_ids)
        return request.num_computed_tokens + self.num_scheduled_tokens == num_tokens and request.pooling_params is None


@dataclass(slots=True)
class ModelBatch:
    """The work of one model in one step."""

    model: str
    requests: list[ScheduledRequest]


@dataclass(slots=True)
class SchedulerOutput:
    """The work of one step: at most one batch for each model, chat first."""

    batches: list[ModelBatch] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)

    @property
    def num_scheduled_tokens(self) -> int:
        return sum(item.num_scheduled_tokens for batch in self.batches for item in batch.requests)


@dataclass(slots=True)
class TokenLogprobs:
    """Log probabilities at one position: the sampled token, then the most likely ones by descending probability."""

    token_ids: list[int]
    logprobs: list[float]
    ranks: list[int]


@dataclass(slots=True)
class RequestResult:
    """What the device made of one :class:`ScheduledRequest`, in the order of the batch."""

    token_ids: list[int] = field(default_factory=list)  # sampled; empty while the prompt is not finished, or pooling
    logprobs: list[TokenLogprobs] | None = None
    pooled: FloatArray | None = None  # [dim] embedding, or [num_labels] raw logits of a cross-encoder
    error: CarrelError | None = None  # of this request alone, e.g. a non-finite vector


class Executor(Protocol):
    """Runs the batch of one model on the device. May raise anything: the core fails that batch and goes on."""

    def execute(self, batch: ModelBatch) -> list[RequestResult]: ...

    def release(self, request_ids: list[str]) -> None:
        """These requests ended: forget what is kept for them."""


@dataclass(slots=True)
class EngineOutput:
    """News of one request. Exactly one output of each request has a ``finish_reason``; it is the last one."""

    request_id: str
    new_token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    pooled: FloatArray | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    error: CarrelError | None = None  # set when finish_reason is "error"
    metrics: RequestMetrics | None = None  # set on the last output

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


class Mailbox(Protocol):
    """Where the engine thread leaves outputs: one call for each step. Must not block.

    If it raises, the reader is gone and the loop aborts the requests of this mailbox.
    """

    def deliver(self, outputs: list[EngineOutput]) -> None: ...
