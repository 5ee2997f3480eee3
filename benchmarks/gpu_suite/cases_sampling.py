"""Check cases of the sampling kernels over a real vocabulary, with the parameters of the kernels' tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from carrel.kernels import reference_sampling as twins
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode, SamplingRows
from sampling_cases import FILTERS, make_logits, make_rows, make_table, no_table
from torch import Tensor

from gpu_suite.check_case import CaseSet, CheckCase, outputs_of

PENALTIES: list[dict[str, Any]] = [
    {"temperature": 0.0, "repetition": 1.3, "slot": 0},
    {"presence": 1.5, "frequency": 0.5, "slot": 1, "top_p": 0.9},
    {"min_length": 100, "slot": 2, "top_k": 9},
    {"temperature": 0.0, "slot": -1},
]
USUAL = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}  # what Qwen's generation_config.json asks for
ALL_FILTERS = SamplingMode.DRAW | SamplingMode.FILTERS
TIPPED = 0.98  # share of equal draws: sums in another order tip one now and then


class _Inputs:
    """Logits of some rows, with parameters and tables; each call starts from the same."""

    def __init__(
        self, params: list[dict[str, Any]], mode: SamplingMode, device: torch.device, dtype: torch.dtype, vocab: int
    ) -> None:
        self.logits = make_logits(len(params), vocab).to(device, dtype)
        self.rows = make_rows(params, device)
        self.mode = mode
        self.table = make_table(3, vocab, device) if SamplingMode.TABLE in mode else no_table(device)

    def sample(self, function: Any, *, fp32: bool = False) -> tuple[Tensor, ...]:
        buffers = self.sampled(function, fp32=fp32)
        return buffers.results, buffers.token_ids

    def sampled(self, function: Any, *, fp32: bool = False) -> SamplingBuffers:
        buffers = SamplingBuffers.empty(len(self.logits), self.logits.shape[1], self.logits.device)
        rows = SamplingRows(self.rows.packed.clone())  # a step counts its rows' positions on
        function(self._logits(fp32), rows, self.table.clone(), buffers, self.mode)
        return buffers

    def kept(self, sample: Any, find: Any = None, *, fp32: bool = False) -> tuple[Tensor, ...]:
        """How many tokens of each row the thresholds leave, which ``sample`` finds on its way, or ``find`` after it."""
        buffers = self.sampled(sample, fp32=fp32)
        if find is not None:
            has_table = SamplingMode.TABLE in self.mode
            find(self._logits(fp32), self.rows, self.table, buffers, has_table=has_table)
        return ((self.logits >= buffers.thresholds.unsqueeze(1)).sum(1),)

    def penalised(self, function: Any, *, fp32: bool = False) -> tuple[Tensor, ...]:
        return (function(self._logits(fp32), self.rows, self.table),)

    def repeated(self, function: Any) -> Any:
        """A call that allocates nothing, as the engine makes it."""
        buffers = SamplingBuffers.empty(len(self.logits), self.logits.shape[1], self.logits.device)
        return lambda: function(self.logits, self.rows, self.table, buffers, self.mode) or ()

    def _logits(self, fp32: bool) -> Tensor:
        return self.logits.float() if fp32 else self.logits


def _vocab(wanted: CaseSet) -> int:
    return 3000 if wanted == "tiny" else 151_936


def sampling(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels.sampling import sample_tokens

    count = {"tiny": 8, "full": 64, "timed": 256}[wanted]
    drawn = [{"temperature": 0.5 + 0.1 * (row % 7)} for row in range(count)]
    plans = {
        "greedy": ([{"temperature": 0.0}] * count, SamplingMode.GREEDY),
        "temperature": (drawn, SamplingMode.DRAW),
        "filters": ([USUAL] * count if wanted == "timed" else FILTERS, ALL_FILTERS),
        "penalties": ((PENALTIES * 64)[:count], ALL_FILTERS | SamplingMode.TABLE),
    }
    for name, (params, mode) in plans.items():
        inputs = _Inputs(params, mode, device, dtype, _vocab(wanted))
        yield CheckCase(
            name=f"{name}, {len(params)} rows",
            kernel=inputs.repeated(sample_tokens) if wanted == "timed" else outputs_of(inputs.sample, sample_tokens),
            twin=outputs_of(inputs.sample, twins.sample_tokens, fp32=True),
            dtype=dtype,
            agreeing=1.0 if name == "greedy" else TIPPED,
            moved_bytes=float(inputs.logits.nbytes),
        )


def thresholds(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    """The tokens that are left, row by row; the time is part of the sampler's."""
    from carrel.kernels.sampling import sample_tokens

    if wanted == "timed":
        return
    inputs = _Inputs(FILTERS, ALL_FILTERS, device, dtype, _vocab(wanted))
    yield CheckCase(
        name="tokens left by top_k, top_p and min_p",
        kernel=outputs_of(inputs.kept, sample_tokens),
        twin=outputs_of(inputs.kept, twins.sample_tokens, twins.find_thresholds, fp32=True),
        dtype=dtype,
        agreeing=0.8,  # a nucleus's edge depends on the order of sums
    )


def penalties(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels.penalties import penalised_logits

    if wanted == "timed":
        return
    inputs = _Inputs(PENALTIES, ALL_FILTERS | SamplingMode.TABLE, device, dtype, _vocab(wanted))
    yield CheckCase(
        name="repetition, presence, frequency, min_tokens",
        kernel=outputs_of(inputs.penalised, penalised_logits),
        twin=outputs_of(inputs.penalised, twins.penalised_logits, fp32=True),
        dtype=torch.float32,
    )


def logprobs(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels.logprobs import token_logprobs

    count, vocab = {"tiny": 5, "full": 33, "timed": 256}[wanted], _vocab(wanted)
    logits = make_logits(count, vocab).to(device, dtype)
    token_ids = torch.randint(0, vocab, (count,), device=device)
    rows = torch.randperm(count, device=device)
    yield CheckCase(
        name=f"{count} rows",
        kernel=outputs_of(token_logprobs, logits, token_ids, rows),
        twin=outputs_of(twins.token_logprobs, logits, token_ids, rows, wide=True),
        dtype=torch.float32,
        moved_bytes=float(logits.nbytes),
    )


def token_bitmask(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    """Every second row masked; fp32 whatever the model's dtype is."""
    from carrel.kernels.token_bitmask import mask_tokens

    count, vocab = {"tiny": 4, "full": 32, "timed": 64}[wanted], _vocab(wanted)
    logits = make_logits(2 * count, vocab).to(device)
    masks = torch.randint(-(2**31), 2**31, (count, -(-vocab // 32)), device=device).to(torch.int32)
    rows = torch.arange(0, 2 * count, 2, device=device)

    def masked(function: Any) -> Tensor:
        out = logits.clone()
        function(out, masks, rows)
        return out

    def masks_again() -> tuple[Tensor, ...]:
        mask_tokens(logits, masks, rows)
        return ()

    yield CheckCase(
        name=f"{count} rows",
        kernel=masks_again if wanted == "timed" else outputs_of(masked, mask_tokens),
        twin=outputs_of(masked, twins.mask_tokens),
        dtype=torch.float32,
        moved_bytes=float(count * vocab * (4 + 2) + masks.nbytes),
    )
