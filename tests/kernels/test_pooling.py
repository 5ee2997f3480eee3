"""Pooling of packed sequences = its twin."""

from typing import get_args

import pytest
import torch
from carrel.kernels import reference_pooling
from carrel.kernels.pooling import l2_normalize, pool_tokens
from carrel.kernels.pooling_modes import PoolingMode
from torch import Tensor

MODES = get_args(PoolingMode)
LENGTHS = [3, 1, 40, 32, 65, 2]


def packed(lengths: list[int], size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)
    hidden = torch.randn((int(bounds[-1]), size), generator=torch.Generator().manual_seed(size))
    return hidden.to(device, dtype), bounds.to(device, torch.int32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [8, 131])
def test_equals_its_twin(size: int, mode: PoolingMode, dtype: torch.dtype, device: torch.device) -> None:
    hidden, bounds = packed(LENGTHS, size, dtype, device)
    found = pool_tokens(hidden, bounds, mode)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, reference_pooling.pool_tokens(hidden, bounds, mode), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_alone_it_pools_to_the_same_bits(mode: PoolingMode, device: torch.device) -> None:
    hidden, bounds = packed(LENGTHS, 64, torch.float32, device)
    together = pool_tokens(hidden, bounds, mode)
    start, end = int(bounds[2]), int(bounds[3])
    alone = pool_tokens(hidden[start:end], torch.tensor([0, end - start], device=device), mode)
    assert torch.equal(alone[0], together[2])


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_finite_stays_in_its_sequence(mode: PoolingMode, device: torch.device) -> None:
    hidden, bounds = packed([4, 1, 4], 16, torch.float32, device)
    hidden[4, 3] = float("nan")
    found = pool_tokens(hidden, bounds, mode)
    assert found[[0, 2]].isfinite().all() and found[1, 3].isnan()


def test_no_sequence_and_a_sequence_without_tokens(device: torch.device) -> None:
    hidden, _ = packed([5], 16, torch.float32, device)
    assert pool_tokens(hidden, torch.tensor([0], device=device), "mean").shape == (0, 16)
    for mode in MODES:
        found = pool_tokens(hidden, torch.tensor([0, 5, 5], device=device), mode)
        assert not found[1].any() and found[0].any()


@pytest.mark.parametrize("shape", [(3, 384), (1, 7), (4, 1024)])
def test_normalised_rows_equal_the_twin(shape: tuple[int, int], device: torch.device) -> None:
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    vectors[0] = 0.0
    torch.testing.assert_close(l2_normalize(vectors), reference_pooling.l2_normalize(vectors), atol=1e-6, rtol=1e-6)
    cut = vectors[:, : shape[1] // 2]
    torch.testing.assert_close(l2_normalize(cut), reference_pooling.l2_normalize(cut), atol=1e-6, rtol=1e-6)
