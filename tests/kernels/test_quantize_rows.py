"""Activations as fp8 with one scale for each token = the twin."""

import os

import pytest
import torch
from carrel.kernels import reference_gemm
from carrel.kernels.quantize_rows import quantize_rows
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def steps(quantised: Tensor) -> Tensor:
    """Numbered from the least fp8 number to the largest: neighbours differ by one."""
    bits = quantised.view(torch.uint8).to(torch.int32)
    return torch.where(bits < 128, bits, 128 - bits)


@pytest.mark.parametrize("shape", [(1, 896), (4, 131), (3, 64)])
def test_equals_its_twin(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(shape[1])).to(device, dtype)
    (found, scales), (expected, expected_scales) = quantize_rows(x), reference_gemm.quantize_rows(x)
    torch.testing.assert_close(scales, expected_scales, atol=0, rtol=1e-6)
    difference = (steps(found) - steps(expected)).abs()
    if INTERPRETED:  # the interpreter loses the carry of what rounds up to a power of two
        difference[expected.view(torch.uint8) & 7 == 0] = 0
    assert difference.max() <= 1 and difference.float().mean() < 0.02  # a division may round a tie the other way


def test_zeros_large_values_rows_that_lie_apart_and_no_row(dtype: torch.dtype, device: torch.device) -> None:
    wide = torch.zeros(4, 100, dtype=dtype, device=device)
    wide[1, 20:80] = 6e4
    wide[2, 30] = -1e-3
    x = wide[:, 10:90]
    found, scales = quantize_rows(x)
    back = found.float() * scales
    torch.testing.assert_close(back[1:2], x[1:2].float(), atol=0, rtol=1e-3)  # the largest of a row is exact
    torch.testing.assert_close(back[2:], x[2:].float(), atol=0, rtol=1e-3)
    assert not back[[0, 3]].any()
    assert quantize_rows(x[:0])[0].shape == (0, 80)
