"""SiLU·mul = its twin."""

import pytest
import torch
from carrel.kernels import reference
from carrel.kernels.silu_mul import silu_and_mul

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("shape", [(1, 2), (3, 2 * 64), (5, 2 * 1123), (7, 2 * 2048), (2, 3, 2 * 100)])
def test_equals_its_twin(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    gate_up = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(silu_and_mul(gate_up), reference.silu_and_mul(gate_up), atol=tolerance, rtol=tolerance)


def test_large_values_stay_finite(dtype: torch.dtype, device: torch.device) -> None:
    gate_up = torch.tensor([[-6e4, 6e4, -100.0, 0.0, 1.0, 1.0, 1.0, 1.0]], dtype=dtype, device=device)
    torch.testing.assert_close(silu_and_mul(gate_up), reference.silu_and_mul(gate_up), atol=1e-6, rtol=1e-2)


def test_no_token_and_rows_that_lie_apart(dtype: torch.dtype, device: torch.device) -> None:
    wide = torch.randn(6, 3 * 64, generator=torch.Generator().manual_seed(2)).to(device, dtype)
    assert silu_and_mul(wide[:0, :128]).shape == (0, 64)
    apart = wide[:, 64:]
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(silu_and_mul(apart), reference.silu_and_mul(apart), atol=tolerance, rtol=tolerance)
