"""Quantised weights on a GPU: Triton's products for few tokens, dense weights and cuBLAS for many.

Import it only where Triton runs. Knows when which of them is faster; the formulas are the kernels' own.
"""

from __future__ import annotations

from torch import Tensor

from carrel.kernels import dequantize, reference_gemm, weight_only_gemm
from carrel.kernels.reference_gemm import Int4Weight, Int8Weight
from carrel.layers.weight_formats import GROUP_SIZES, dense_linear, pack_by_rows, pack_int4

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
        return dense_linear(x, packed, bias, dequantize.dequantize_int8, dim=0, max_dense=MAX_DENSE)


class TritonInt4:
    """One scale and zero point for each group of inputs."""

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        return num_inputs % GROUP_SIZES[-1] == 0

    def pack(self, weight: Tensor) -> Int4Weight:
        return pack_int4(weight)

    def linear(self, x: Tensor, packed: Int4Weight, bias: Tensor | None) -> Tensor:
        if len(x) <= FEW_TOKENS:
            return weight_only_gemm.int4_linear(x, packed, bias)
        return dense_linear(x, packed, bias, dequantize.dequantize_int4, dim=1, max_dense=MAX_DENSE)
