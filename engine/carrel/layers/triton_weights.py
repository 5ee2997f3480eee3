"""Quantised weights on a GPU: Triton's products for few tokens, dense weights and cuBLAS for many.

Import it only where Triton runs. Knows when which of them is faster; the formulas are the kernels' own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from carrel.kernels import dequantize, reference_gemm, weight_only_gemm
from carrel.kernels.reference_gemm import Int4Weight, Int8Weight
from carrel.layers.weight_formats import GROUP_SIZES, group_size_of, pack_by_rows

FEW_TOKENS = 256  # above, reading quantised weights and writing dense ones costs less than what cuBLAS gains
MAX_DENSE = 1 << 26  # weights made dense at a time: 128 MiB in bf16


class TritonInt8:
    """One scale for each output."""

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        return True

    def pack(self, weight: Tensor) -> Int8Weight:
        packed: Int8Weight = pack_by_rows(reference_gemm.quantize_int8, weight, dim=0)
        return packed

    def linear(self, x: Tensor, packed: Int8Weight, bias: Tensor | None) -> Tensor:
        if len(x) <= FEW_TOKENS:
            return weight_only_gemm.int8_linear(x, packed, bias)
        return _dense_linear(x, packed, bias, 0, dequantize.dequantize_int8)


class TritonInt4:
    """One scale and zero point for each group of inputs."""

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        return num_inputs % GROUP_SIZES[-1] == 0

    def pack(self, weight: Tensor) -> Int4Weight:
        group_size = group_size_of(weight.shape[1])
        packed: Int4Weight = pack_by_rows(lambda rows: reference_gemm.quantize_int4(rows, group_size), weight, dim=1)
        return packed

    def linear(self, x: Tensor, packed: Int4Weight, bias: Tensor | None) -> Tensor:
        if len(x) <= FEW_TOKENS:
            return weight_only_gemm.int4_linear(x, packed, bias)
        return _dense_linear(x, packed, bias, 1, dequantize.dequantize_int4)


def _dense_linear(
    x: Tensor, packed: Any, bias: Tensor | None, dim: int, dequantize: Callable[[Any, torch.dtype], Tensor]
) -> Tensor:
    """Slices of the outputs, which are dimension ``dim`` of every part, so that the dense ones never take much."""
    num_outputs, rows = packed[0].shape[dim], max(16, MAX_DENSE // x.shape[1] // 16 * 16)
    if num_outputs <= rows:
        return F.linear(x, dequantize(packed, x.dtype), bias)
    out = torch.empty((len(x), num_outputs), dtype=x.dtype, device=x.device)
    for start in range(0, num_outputs, rows):
        length = min(rows, num_outputs - start)
        some = type(packed)(*(part.narrow(dim, start, length) for part in packed))
        some_bias = None if bias is None else bias[start : start + length]
        out[:, start : start + length] = F.linear(x, dequantize(some, x.dtype), some_bias)
    return out
