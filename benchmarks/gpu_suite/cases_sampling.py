"""Check cases of the sampling kernels over a real vocabulary, with the parameters of the kernels' tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from carrel.kernels import reference_sampling as twins
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode
from sampling_cases import FILTERS, make_logits, make_rows, make_table, no_table
from torch import Tensor

from gpu_suite.check_case import CheckCase, outputs_of

PENALTIES: list[dict[str, Any]] = [
    {"temperature": 0.0, "repetition": 1.3, "slot": 0},
    {"presence": 1.5, "frequency": 0.5, "slot": 1, "top_p": 0.9},
    {"min_length": 100, "slot": 2, "top_k": 9},
    {"temperature": 0.0, "slot": -1},
]
ALL_FILTERS = SamplingMode.DRAW | SamplingMode.FILTERS


class _Inputs:
    """Logits of some rows, with parameters and tables; each run has buffers of its own."""

    def __init__(
        self, params: list[dict[str, Any]], mode: SamplingMode, device: torch.device, dtype: torch.dtype, vocab: int
    ) -> None:
        self.logits = make_logits(len(params), vocab).to(device, dtype)
        self.positions = torch.arange(7, 7 + len(params), device=device)
        self.rows = make_rows(params, device)
        self.mode = mode
        has_table = bool(mode & SamplingMode.TABLE)
        self.table = make_table(3, vocab, device) if has_table else no_table(device)

    def sample(self, function: Any, *, fp32: bool = False) -> tuple[Tensor, ...]:
        buffers, table = self._buffers(), self.table.clone()
        function(self._logits(fp32), self.positions, self.rows, table, buffers, self.mode)
        return buffers.results.clone(), buffers.token_ids.clone()

    def kept(self, sample: Any, function: Any = None, *, fp32: bool = False) -> tuple[Tensor, ...]:
        """Which tokens the thresholds leave. ``sample`` runs before: it makes the maxima that thresholds start from."""
        buffers, logits = self._buffers(), self._logits(fp32)
        sample(logits, self.positions, self.rows, self.table.clone(), buffers, self.mode)
        if function is not None:
            has_table = bool(self.mode & SamplingMode.TABLE)
            function(logits, self.positions, self.rows, self.table, buffers, has_table=has_table)
        return ((logits >= buffers.thresholds.unsqueeze(1)).sum(1),)

    def penalised(self, function: Any, *, fp32: bool = False) -> tuple[Tensor, ...]:
        return (function(self._logits(fp32), self.positions, self.rows, self.table.clone()),)

    def _logits(self, fp32: bool) -> Tensor:
        return self.logits.float() if fp32 else self.logits

    def _buffers(self) -> SamplingBuffers:
        return SamplingBuffers.empty(len(self.logits), self.logits.shape[1], self.logits.device)


def _vocab(tiny: bool) -> int:
    return 3000 if tiny else 151_936


def sampling(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    from carrel.kernels.sampling import sample_tokens

    count = 8 if tiny else 256
    drawn = [{"temperature": 0.5 + 0.1 * (row % 7)} for row in range(count)]
    plans = {
        "greedy": ([{"temperature": 0.0}] * count, SamplingMode.GREEDY),
        "temperature": (drawn, SamplingMode.DRAW),
        "filters": (FILTERS * (1 if tiny else 6), ALL_FILTERS),
        "penalties": (PENALTIES, ALL_FILTERS | SamplingMode.TABLE),
    }
    for name, (params, mode) in plans.items():
        inputs = _Inputs(params, mode, device, dtype, _vocab(tiny))
        timed = not tiny and name in ("greedy", "temperature", "filters")
        yield CheckCase(
            name=name,
            kernel=outputs_of(inputs.sample, sample_tokens),
            twin=outputs_of(inputs.sample, twins.sample_tokens, fp32=True),
            dtype=dtype,
            agreeing=1.0 if name == "greedy" else 0.98,  # sums in another order tip a draw now and then
            moved_bytes=float(inputs.logits.numel() * dtype.itemsize) if timed else 0.0,
        )


def thresholds(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    """The tokens that are left, row by row: the thresholds that the sampler finds on its way."""
    from carrel.kernels.sampling import sample_tokens

    inputs = _Inputs(FILTERS, ALL_FILTERS, device, dtype, _vocab(tiny))
    yield CheckCase(
        name="tokens left by top_k, top_p and min_p",
        kernel=outputs_of(inputs.kept, sample_tokens),
        twin=outputs_of(inputs.kept, twins.sample_tokens, twins.find_thresholds, fp32=True),
        dtype=dtype,
        agreeing=0.8,  # a nucleus's edge depends on the order of sums
    )


def penalties(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    from carrel.kernels.penalties import penalised_logits

    inputs = _Inputs(PENALTIES, ALL_FILTERS | SamplingMode.TABLE, device, dtype, _vocab(tiny))
    yield CheckCase(
        name="repetition, presence, frequency, min_tokens",
        kernel=outputs_of(inputs.penalised, penalised_logits),
        twin=outputs_of(inputs.penalised, twins.penalised_logits, fp32=True),
        dtype=torch.float32,
    )
