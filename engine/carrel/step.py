"""What crosses the border between scheduler, device and caller in one step of the engine. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from carrel.errors import CarrelError
from carrel.outputs import FinishReason, FloatArray, RequestMetrics
from carrel.request import Request


@dataclass(slots=True)
class ScheduledRequest:
    """Compute tokens ``[num_computed_tokens, num_tokens)`` of this request.

    What changes from step to step stands here as it is in this step. The scheduler runs ahead: when the device comes to
    this step, ``request`` itself may be further on. The worker never writes ``request``, and reads of it, at any time,
    what never changes (prompt, parameters, seed), and during ``submit()`` alone ``output_token_ids``.
    """

    request: Request
    num_scheduled_tokens: int
    # KV blocks for tokens 0, 1, …, maybe for more tokens than this step computes; empty when pooling. The scheduler
    # goes on to append to this list: the worker reads it during submit() and keeps no reference.
    block_table: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0  # when this step begins on the device
    samples: bool = False  # the step reaches the last token that the request has: one more is sampled
    # The one token to compute was sampled by the batch of this model before this one, and the host has not seen it:
    # ``request.token_ids`` ends right before it. The worker takes it from where that batch left it.
    input_on_device: bool = False
    # So many of the first tokens to compute are asked for their logits, for the log probabilities of the prompt.
    num_prompt_logits: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens in the sequence after this step: also the position of the token that is sampled."""
        return self.num_computed_tokens + self.num_scheduled_tokens

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens before the one that is sampled in this step; ``min_tokens`` is compared with it."""
        return self.num_computed_tokens + self.num_scheduled_tokens - len(self.request.prompt_token_ids)


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
    prompt_logprobs: list[TokenLogprobs] | None = None  # of the prompt tokens that this step's tokens predict
    # [dim] embedding, or [num_labels] raw logits of a cross-encoder; if the request wants spans, behind these
    # [2 * num_tokens]: the logits of each token that the answer starts there, then those that it ends there.
    pooled: FloatArray | None = None
    error: CarrelError | None = None  # of this request alone, e.g. a non-finite vector


class PendingBatch(Protocol):
    """A batch that the device has, or had, in work."""

    @property
    def runs_ahead(self) -> bool:
        """Whether the next step may be submitted before :meth:`wait`: the batch that follows this one takes the tokens
        sampled here as ``input_on_device``.

        False if the device needs to be told these tokens: it keeps none, or it samples for a request that
        ``needs_host_tokens`` and does not keep on the device what that request asks for.
        """
        ...

    def wait(self) -> list[RequestResult]:
        """Block until the batch is done; results in the order of ``batch.requests``. Called once, or never.

        May raise anything: the core fails the requests of this batch and goes on.
        """
        ...


@dataclass(slots=True)
class FinishedBatch:
    """Results that are there already: what a device gives that works while ``submit`` waits."""

    results: list[RequestResult] | Exception
    runs_ahead: bool = False

    def wait(self) -> list[RequestResult]:
        if isinstance(self.results, Exception):
            raise self.results
        return self.results


class Executor(Protocol):
    """Runs batches on the device. All methods are called by the engine's thread alone.

    What an asynchronous device must do, with step N in work and step N + 1 submitted behind it:

    * **Order.** Batches of one model run in the order in which they are submitted, each after the one before. The
      scheduler counts on it: it gives a block that step N still writes to another request of step N + 1 or later, and
      whatever that request reads of the block it writes first.
    * **Copies.** ``submit`` copies what it needs out of the batch (token ids, block tables, counts) before it returns,
      and does not wait for the device. Buffers that the host fills must not be those that step N still reads.
    * **Last tokens.** The sampler leaves the sampled tokens on the device, where the rows of the next batch find them:
      ``input_on_device`` always means the batch of the same model that was submitted right before. What lies there is a
      valid token id whatever happens, also when the logits were not finite: the request ends with an error then, but
      the step behind may compute its row once more.
    * **Counts.** Position of the sampled token, ``min_tokens`` and sequence lengths come from the
      :class:`ScheduledRequest`, never from ``len(request.output_token_ids)``, which lags behind.
    * **Extra rows.** A request that ended in step N by a stop token, an abort or an error may still be computed in step
      N + 1, also after its ``release``. The result of that row is dropped. A place in a buffer that ``release`` gave
      back may be used again by the next ``submit``, which runs later on the device.
    """

    @property
    def is_asynchronous(self) -> bool:
        """Whether ``submit`` returns before the device is done."""
        ...

    def submit(self, batch: ModelBatch) -> PendingBatch:
        """Start ``batch``. May raise anything: the core fails the requests of this batch and goes on."""
        ...

    def release(self, request_ids: list[str]) -> None:
        """These requests ended: forget what is kept for them. Another request may come with the same id."""


@dataclass
class EngineOutput:
    """News of one request. Exactly one output of each request has a ``finish_reason``; it is the last one."""

    request_id: str
    new_token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None  # of the whole prompt but its first token; with the first token
    pooled: FloatArray | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    error: CarrelError | None = None  # set when finish_reason is "error"
    metrics: RequestMetrics | None = None  # set on the last output

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


class TokensOutput(EngineOutput):
    """Tokens of a request that goes on. There is one for each request in each step, so it sets what it has and leaves
    the rest to the defaults, which a dataclass without slots keeps in its class."""

    def __init__(
        self, request_id: str, new_token_ids: list[int], logprobs: list[TokenLogprobs] | None, num_cached_tokens: int
    ) -> None:
        self.request_id = request_id
        self.new_token_ids = new_token_ids
        self.logprobs = logprobs
        self.num_cached_tokens = num_cached_tokens


class Mailbox(Protocol):
    """Where the engine thread leaves outputs: one call for each step. Must not block.

    If it raises, the reader is gone and the loop aborts the requests of this mailbox.
    """

    def deliver(self, outputs: list[EngineOutput]) -> None: ...
