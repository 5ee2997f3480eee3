"""LayerNorm with and without a residual = its twin."""

import pytest
import torch
from carrel.kernels import reference
from carrel.kernels.layer_norm import layer_norm

TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("shape", [(1, 384), (3, 768), (5, 1123), (2, 64)])
def test_equals_its_twin(shape: tuple[int, int], has_residual: bool, dtype: torch.dtype, device: torch.device) -> None:
    x, weight, bias = (
        random(shape, dtype, device),
        random(shape[1:], dtype, device, 2),
        random(shape[1:], dtype, device, 3),
    )
    residual = random(shape, dtype, device, 4) if has_residual else None
    found = layer_norm(x, residual, weight, bias, 1e-12)
    close(found, reference.layer_norm(x, residual, weight, bias, 1e-12))


def test_a_large_mean_costs_no_digits(device: torch.device) -> None:
    x = random((4, 512), torch.float32, device) + 1000.0
    weight, bias = torch.ones(512, device=device), torch.zeros(512, device=device)
    expected = reference.layer_norm(x.double(), None, weight.double(), bias.double(), 1e-5).float()
    torch.testing.assert_close(layer_norm(x, None, weight, bias, 1e-5), expected, atol=1e-4, rtol=1e-4)


def test_rows_that_lie_apart_and_no_row(dtype: torch.dtype, device: torch.device) -> None:
    wide, weight, bias = (
        random((6, 300), dtype, device),
        random((100,), dtype, device),
        random((100,), dtype, device, 2),
    )
    apart, other = wide[:, 50:150], wide[:, 200:]
    close(layer_norm(apart, other, weight, bias, 1e-6), reference.layer_norm(apart, other, weight, bias, 1e-6))
    assert layer_norm(apart[:0], None, weight, bias, 1e-6).shape == (0, 100)
