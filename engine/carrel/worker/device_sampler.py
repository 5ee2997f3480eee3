"""The sampler that never leaves the device: tokens for the next step at once, results when their copy has arrived.

The same law as the CPU's (``worker.sampler``), in a handful of launches of ``kernels.sampling``; for tests on a CPU, in
their twins. Waits for nothing. Rows of mode GREEDY cost one read of the logits, and nothing is sent while the batch
stays the same. See docs/adr/0009-sampling-law.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carrel.errors import CarrelError
from carrel.kernels import reference_sampling
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode, SamplingRows
from carrel.step import RequestResult, ScheduledRequest, TokenLogprobs
from carrel.worker.constraints import Constraints, StepConstraints
from carrel.worker.device_stream import DeviceStream
from carrel.worker.sampling_state import SamplingState
from carrel.worker.step_sampler import HostSampler, StepSampler, not_finite


@dataclass(frozen=True, slots=True)
class SamplingKernels:
    """One implementation of the three operations."""

    sample_tokens: Callable[[Tensor, SamplingRows, Tensor, SamplingBuffers, SamplingMode], None]
    token_logprobs: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    mask_tokens: Callable[[Tensor, Tensor, Tensor], None]


def torch_kernels() -> SamplingKernels:
    twins = reference_sampling
    return SamplingKernels(twins.sample_tokens, twins.token_logprobs, twins.mask_tokens)


def triton_kernels() -> SamplingKernels:
    from carrel.kernels import logprobs, sampling, token_bitmask  # a CPU loads no Triton

    return SamplingKernels(sampling.sample_tokens, logprobs.token_logprobs, token_bitmask.mask_tokens)


def sampler_for(stream: DeviceStream, max_rows: int) -> StepSampler:
    """The sampler of a model on the device of ``stream``, for steps of at most ``max_rows`` requests."""
    if stream.device.type == "cuda":
        return DeviceSampler(stream, max_rows, triton_kernels())
    return HostSampler()


@dataclass(slots=True)
class HostLogprobs:
    """What came back for the rows that asked; complete when the step is."""

    chosen: Tensor  # [n] fp32
    ranks: Tensor  # [n] int64
    top_logprobs: Tensor  # [n, num_top] fp32
    top_ids: Tensor  # [n, num_top] int64


@dataclass(slots=True)
class SampledOnDevice:
    """Implements :class:`carrel.worker.step_sampler.SampledStep`."""

    token_ids: Tensor  # [num_samples] int64 on the device, valid until the next step samples
    host_ids: Tensor  # [num_samples] int64 on the host; -1: the row was not finite
    counts: dict[int, int]  # row that asks for log probabilities → how many beside its own
    logprobs: HostLogprobs | None
    errors: dict[int, CarrelError]  # row → why its request cannot go on

    def results(self) -> list[RequestResult]:
        ids = self.host_ids.tolist()
        results = [
            RequestResult(token_ids=[token]) if token >= 0 else RequestResult(error=not_finite()) for token in ids
        ]
        for row, error in self.errors.items():
            results[row] = RequestResult(error=error)
        if self.logprobs is not None:
            for row, logprobs in zip(self.counts, self._rows(self.logprobs, ids), strict=True):
                if results[row].error is None:
                    results[row].logprobs = [logprobs]
        return results

    def _rows(self, host: HostLogprobs, ids: list[int]) -> list[TokenLogprobs]:
        chosen, ranks = host.chosen.tolist(), host.ranks.tolist()
        values, top_ids = host.top_logprobs.tolist(), host.top_ids.tolist()
        return [
            TokenLogprobs(
                token_ids=[ids[row], *top_ids[index][:count]],
                logprobs=[chosen[index], *values[index][:count]],
                ranks=[ranks[index], *range(1, min(count, len(values[index])) + 1)],
            )
            for index, (row, count) in enumerate(self.counts.items())
        ]


class DeviceSampler:
    """Implements :class:`carrel.worker.step_sampler.StepSampler`. Buffers are made for the first logits it sees."""

    def __init__(self, stream: DeviceStream, max_rows: int, kernels: SamplingKernels) -> None:
        self._stream, self._max_rows, self._kernels = stream, max_rows, kernels
        self._state: SamplingState | None = None
        self._buffers: SamplingBuffers | None = None
        self._constraints = Constraints()

    def sample(self, logits: Tensor, items: Sequence[ScheduledRequest]) -> SampledOnDevice:
        """``logits`` [len(items), vocab_size], not changed."""
        state, buffers = self._open(logits.shape[1])
        assert len(items) == logits.shape[0] <= self._max_rows, "a row of logits for each request"
        constraints = self._constraints.of_step(items, logits.shape[1])  # the device computes the logits meanwhile
        allowed = logits if constraints is None else self._constrained(logits, constraints)
        state.prepare(items)
        self._kernels.sample_tokens(allowed, state.rows, state.table.tensor, buffers, state.mode)
        token_ids = buffers.token_ids[: len(items)]
        host_ids = self._stream.read_back(buffers.results[: len(items)])
        counts: dict[int, int] = {}
        logprobs = None
        if len(state.asking):
            counts = {row: count for row, item in enumerate(items) if (count := _num_logprobs(item)) is not None}
            logprobs = self._logprobs(logits, token_ids, state)
        return SampledOnDevice(token_ids, host_ids, counts, logprobs, constraints.errors if constraints else {})

    def runs_ahead(self, items: Sequence[ScheduledRequest]) -> bool:
        """Tokens so far are counted where they are drawn, but a grammar reads them on the host."""
        return self._constraints.runs_ahead(items)

    def release(self, request_ids: Sequence[str]) -> None:
        """Their rows of the token table go to others, their matchers go."""
        self._constraints.release(request_ids)
        if self._state is not None:
            self._state.release(request_ids)

    def _open(self, vocab_size: int) -> tuple[SamplingState, SamplingBuffers]:
        if self._state is None or self._buffers is None:
            self._state = SamplingState(self._stream, vocab_size, self._max_rows)
            self._buffers = SamplingBuffers.empty(self._max_rows, vocab_size, self._stream.device)
        return self._state, self._buffers

    def _constrained(self, logits: Tensor, constraints: StepConstraints) -> Tensor:
        """[num_rows, vocab_size] fp32, a copy: biases added, tokens that may not be drawn at -inf."""
        out = logits.to(torch.float32, copy=True)
        send = self._stream.send
        if len(constraints.biases):
            out[send(constraints.biased_rows), send(constraints.biased_ids)] += send(constraints.biases)
        if len(constraints.masks):
            self._kernels.mask_tokens(out, send(constraints.masks), send(constraints.masked_rows))
        return out

    def _logprobs(self, logits: Tensor, token_ids: Tensor, state: SamplingState) -> HostLogprobs:
        """Of the model's own distribution: before penalties, temperature and filters."""
        chosen, ranks, log_sums = self._kernels.token_logprobs(logits, token_ids, state.asking)
        values, top_ids = torch.topk(logits.index_select(0, state.asking), state.num_top, dim=-1)
        top_logprobs = values.to(torch.float32) - log_sums.unsqueeze(1)
        back = self._stream.read_back
        return HostLogprobs(back(chosen), back(ranks), back(top_logprobs), back(top_ids))


def _num_logprobs(item: ScheduledRequest) -> int | None:
    params = item.request.sampling_params
    assert params is not None, "only requests that sample reach the sampler"
    return params.logprobs
