"""Quantised weights back in the model's dtype = the twins."""

import pytest
import torch
from carrel.kernels import dequantize, reference_gemm
from carrel.kernels.reference_gemm import Int4Weight, Int8Weight

SHAPES = [(1, 128), (33, 256), (70, 384)]  # outputs, inputs


def weight_of(shape: tuple[int, int], device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 131)])
def test_int8_equals_its_twin(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    weight = reference_gemm.quantize_int8(weight_of(shape, device))
    assert torch.equal(dequantize.dequantize_int8(weight, dtype), reference_gemm.dequantize_int8(weight, dtype))
    some = Int8Weight(weight.values[1:], weight.scales[1:])
    assert torch.equal(dequantize.dequantize_int8(some, dtype), reference_gemm.dequantize_int8(some, dtype))


@pytest.mark.parametrize("group", [128, 64, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_equals_its_twin(shape: tuple[int, int], group: int, dtype: torch.dtype, device: torch.device) -> None:
    weight = reference_gemm.quantize_int4(weight_of(shape, device).to(dtype), group)
    assert torch.equal(dequantize.dequantize_int4(weight, dtype), reference_gemm.dequantize_int4(weight, dtype))
    some = Int4Weight(*(part[:, 1:20] for part in weight))
    assert torch.equal(dequantize.dequantize_int4(some, dtype), reference_gemm.dequantize_int4(some, dtype))
