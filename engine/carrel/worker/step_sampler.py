"""What a runner asks of its sampler in one step: tokens on the device at once, results on the host later.

The seam between the runner and the two samplers, on the device and on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from carrel.errors import StepError
from carrel.kernels.reference_sampling import mask_tokens
from carrel.request import Request
from carrel.step import RequestResult, ScheduledRequest
from carrel.worker.constraints import Constraints, StepConstraints
from carrel.worker.sampler import sample


class SampledStep(Protocol):
    """The tokens of one step."""

    @property
    def token_ids(self) -> Tensor:
        """[num_samples] int64 on the device, always ids of the vocabulary; what the next step reads."""
        ...

    def results(self) -> list[RequestResult]:
        """One for each item. Called once, when an event recorded after ``sample`` is reached; waits for nothing."""
        ...


class StepSampler(Protocol):
    """Samples for one model, on the runner's stream."""

    def sample(self, logits: Tensor, items: Sequence[ScheduledRequest]) -> SampledStep:
        """``logits`` [len(items), vocab_size], one row for each item. Launches all work, the copies to the host too."""
        ...

    def runs_ahead(self, items: Sequence[ScheduledRequest]) -> bool:
        """Whether the step after one that samples for ``items`` can be sampled before the host knows the tokens."""
        ...

    def release(self, request_ids: Sequence[str]) -> None:
        """These requests ended: forget what is kept for them."""


def sample_on_host(
    logits: Tensor, items: Sequence[ScheduledRequest], constraints: StepConstraints | None = None
) -> list[RequestResult]:
    """``logits`` [len(items), vocab_size]. A row that is not finite, or whose form failed, fails its own request."""
    constrained = logits if constraints is None else constrained_logits(logits, constraints)
    finite = torch.isfinite(constrained.amax(dim=-1)).tolist()  # NaN and +inf win every maximum
    results = [RequestResult() if good else RequestResult(error=not_finite()) for good in finite]
    for row, error in (constraints.errors if constraints else {}).items():
        results[row].error = error
    rows = [row for row, result in enumerate(results) if result.error is None]
    if not rows:
        return results
    if len(rows) < len(results):
        logits, constrained = logits[rows], constrained[rows]
    sampled = sample(logits, [_as_of(items[row]) for row in rows], constrained=constrained.to(torch.float32))
    for row, token_id, logprobs in zip(rows, sampled.token_ids, sampled.logprobs, strict=True):
        results[row].token_ids = [token_id]
        results[row].logprobs = None if logprobs is None else [logprobs]
    return results


def constrained_logits(logits: Tensor, constraints: StepConstraints) -> Tensor:
    """[num_rows, vocab_size] fp32, a copy: biases added, tokens that may not be drawn at -inf."""
    out = logits.to(torch.float32, copy=True)
    if len(constraints.biases):
        rows, ids = torch.from_numpy(constraints.biased_rows), torch.from_numpy(constraints.biased_ids)
        out[rows, ids] += torch.from_numpy(constraints.biases).to(out.device)
    if len(constraints.masks):
        masks, rows = torch.from_numpy(constraints.masks), torch.from_numpy(constraints.masked_rows)
        mask_tokens(out, masks.to(out.device), rows.to(out.device))
    return out


def not_finite() -> StepError:
    """One for each request, for an exception that is raised in several threads collects all their tracebacks."""
    return StepError("The model gave logits that are not finite; try dtype float32.")


def _as_of(item: ScheduledRequest) -> Request:
    """The request with as many tokens as it has in this step; which ones are not known is of no interest to it."""
    request = item.request
    num_unknown = item.num_tokens - request.num_tokens
    if not num_unknown:
        return request
    return replace(request, output_token_ids=[*request.output_token_ids, *[0] * num_unknown])


@dataclass(slots=True)
class SampledOnHost:
    token_ids: Tensor
    host_results: list[RequestResult]

    def results(self) -> list[RequestResult]:
        return self.host_results


class HostSampler:
    """The slow twin: :func:`carrel.worker.sampler.sample`, which waits for the logits and reads the tokens so far."""

    def __init__(self) -> None:
        self._constraints = Constraints()

    def sample(self, logits: Tensor, items: Sequence[ScheduledRequest]) -> SampledOnHost:
        results = sample_on_host(logits, items, self._constraints.of_step(items, logits.shape[1]))
        ids = [result.token_ids[0] if result.token_ids else 0 for result in results]
        return SampledOnHost(torch.tensor(ids, dtype=torch.int64).to(logits.device), results)

    def runs_ahead(self, items: Sequence[ScheduledRequest]) -> bool:
        return not any(item.request.needs_host_tokens for item in items)

    def release(self, request_ids: Sequence[str]) -> None:
        """Their matchers go."""
        self._constraints.release(request_ids)
