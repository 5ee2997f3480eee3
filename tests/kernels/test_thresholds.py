"""Thresholds by bisection = thresholds by a sort: the same tokens stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from carrel.kernels import reference_sampling as reference
from carrel.kernels import thresholds
from carrel.kernels.sampling import sample_tokens
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode
from sampling_cases import FILTERS, make_logits, make_rows, make_table, no_table, small_buffers
from torch import Tensor

MODE = SamplingMode.DRAW | SamplingMode.FILTERS
DRAWN = [params for params in FILTERS if params.get("temperature") != 0.0]


def lost_mass(logits: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
    """[num_rows] probability of the tokens that only one of the two keeps: sums in fp32 round."""
    probs = logits.to(torch.float32).softmax(dim=-1)
    return (probs * (kept[0] != kept[1])).sum(dim=-1)


def kept_by_both(logits: Tensor, params: list[dict[str, Any]], buffers: SamplingBuffers) -> tuple[Tensor, Tensor]:
    """[num_rows, vocab_size] which tokens kernel and twin leave; ``buffers`` are of the kernel."""
    rows = make_rows(params, logits.device)
    table, twin = no_table(logits.device), small_buffers(len(params), logits.shape[1], logits.device)
    sample_tokens(logits, rows, table, buffers, MODE)
    reference.find_thresholds(logits, rows, table, twin, has_table=False)
    x = logits.to(torch.float32)
    return x >= buffers.thresholds[:, None], x >= twin.thresholds[:, None]


@pytest.mark.parametrize(("vocab_size", "scale"), [(7, 3.0), (300, 0.05)])
def test_the_same_tokens_stay(vocab_size: int, scale: float, dtype: torch.dtype, device: torch.device) -> None:
    logits = make_logits(len(DRAWN), vocab_size, scale=scale).to(device, dtype)
    buffers = small_buffers(len(DRAWN), vocab_size, device)
    kernel, twin = kept_by_both(logits, DRAWN, buffers)
    assert [DRAWN[row] for row in (kernel != twin).any(dim=1).nonzero()[:, 0].tolist()] == []


@pytest.mark.parametrize("scale", [3.0, 8.0])
def test_the_same_tokens_of_many_stay(scale: float, device: torch.device) -> None:
    some = DRAWN[int(scale) % 2 :: 2]
    logits = make_logits(len(some), 5003, scale=scale).to(device, torch.float16)
    lost = lost_mass(logits, kept_by_both(logits, some, small_buffers(len(some), 5003, device)))
    assert [some[row] for row in (lost > 1e-6).nonzero()[:, 0].tolist()] == []


def test_both_ways_of_searching_are_taken(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peaked row is solved in its best groups, a flat one over the whole row in several blocks."""
    monkeypatch.setattr(thresholds, "BLOCK", 512)
    logits = torch.cat([make_logits(2, 2000, scale=0.01), make_logits(2, 2000, scale=9.0)]).to(device)
    params = [{"top_p": 0.9}, {"top_k": 500, "min_p": 0.1}, {"top_p": 0.9}, {"top_k": 5}]
    buffers = small_buffers(4, 2000, device)
    kernel, twin = kept_by_both(logits, params, buffers)
    assert torch.equal(kernel, twin)
    assert [count == thresholds.WHOLE_ROW.value for count in buffers.num_selected.tolist()] == [
        True,
        True,
        False,
        False,
    ]


def test_equal_logits_stay_or_go_together(device: torch.device) -> None:
    logits = torch.zeros(3, 1000, device=device)
    logits[1, 500:] = 1.0
    logits[2, ::7] = 3.0
    params = [{"top_k": 10}, {"top_p": 0.1}, {"top_k": 150, "top_p": 0.9}]
    kernel, twin = kept_by_both(logits, params, small_buffers(3, 1000, device))
    assert torch.equal(kernel, twin)
    assert kernel.sum(dim=1).tolist() == [1000, 500, 1000]


def test_masked_tokens_never_stay(device: torch.device) -> None:
    logits = make_logits(4, 300)
    logits[:, 20:] = -torch.inf
    params = [{"top_k": 100}, {"top_p": 0.999}, {"min_p": 1e-7}, {"top_k": 19, "top_p": 0.9999}]
    kernel, twin = kept_by_both(logits.to(device), params, small_buffers(4, 300, device))
    assert torch.equal(kernel & (logits.to(device) > -torch.inf), twin & (logits.to(device) > -torch.inf))


def test_extreme_logits_end_the_search(device: torch.device) -> None:
    """Penalties may make logits of ±1e30; some models mask with the least number of their dtype."""
    logits = make_logits(4, 900)
    logits[:, ::2] = torch.finfo(torch.float32).min
    logits[1, 100] = 1e30
    logits[2, 101] = -1e30
    params = [{"top_p": 0.9, "top_k": 600}, {"top_p": 0.9}, {"top_p": 0.99, "min_p": 1e-30}, {"top_k": 451}]
    kernel, twin = kept_by_both(logits.to(device), params, small_buffers(4, 900, device))
    assert torch.equal(kernel, twin)


def test_penalised_logits_are_filtered(device: torch.device) -> None:
    logits, table = make_logits(3, 1000, scale=1.0).to(device), make_table(1, 1000, device)
    params = [{"top_k": 5, "repetition": 2.0, "slot": 0}, {"top_p": 0.6, "presence": 2.0, "slot": 0}, {"top_k": 400}]
    params[2] |= {"frequency": -2.0, "slot": 0}
    rows = make_rows(params, device)
    buffers, twin = (small_buffers(3, 1000, device) for _ in range(2))
    sample_tokens(logits, rows, table.clone(), buffers, MODE | SamplingMode.TABLE)
    reference.find_thresholds(logits, rows, table, twin, has_table=True)
    x = reference.penalised_logits(logits, rows, table)
    assert torch.equal(x >= buffers.thresholds[:, None], x >= twin.thresholds[:, None])
