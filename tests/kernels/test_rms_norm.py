"""RMSNorm with and without a residual = its twin."""

import pytest
import torch
from carrel.kernels import reference
from carrel.kernels.rms_norm import add_rms_norm, rms_norm

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
SHAPES = [(1, 896), (3, 64), (5, 1123), (2, 4096), (2, 3, 128), (4, 1)]


def random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_twin(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x, weight = random(shape, dtype, device), random(shape[-1:], dtype, device, 2)
    close(rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))


@pytest.mark.parametrize("shape", SHAPES)
def test_with_a_residual(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x, residual, weight = (
        random(shape, dtype, device),
        random(shape, dtype, device, 3),
        random(shape[-1:], dtype, device),
    )
    normed, total = add_rms_norm(x, residual, weight, 1e-5)
    expected, expected_total = reference.add_rms_norm(x, residual, weight, 1e-5)
    close(normed, expected)
    assert torch.equal(total, expected_total)


def test_rows_that_lie_apart_and_no_row(dtype: torch.dtype, device: torch.device) -> None:
    wide, weight = random((6, 300), dtype, device), random((100,), dtype, device, 2)
    apart, other = wide[:, 50:150], wide[:, 200:]
    close(rms_norm(apart, weight, 1e-6), reference.rms_norm(apart, weight, 1e-6))
    close(add_rms_norm(apart, other, weight, 1e-6)[0], reference.add_rms_norm(apart, other, weight, 1e-6)[0])
    assert rms_norm(apart[:0], weight, 1e-6).shape == (0, 100)


def test_zeros_and_large_values(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.zeros((3, 64), dtype=dtype, device=device)
    x[1] = 3e4  # its square passes the range of fp16
    x[2, 0] = 1e-4
    weight = torch.ones(64, dtype=dtype, device=device)
    close(rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))
