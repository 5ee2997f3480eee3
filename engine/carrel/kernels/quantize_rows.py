"""Activations as fp8, one scale for each token: scale[t] = max |x[t]| / 448, q[t] = x[t] / scale[t] as float8_e4m3.

448 is the largest e4m3. ``torch._scaled_mm`` multiplies the result with fp8 weights of one scale for each output.
Bound by bandwidth: two bytes read, one written. Twin: ``reference_gemm.quantize_rows``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.rms_norm import MAX_SIZE, num_warps_for


@triton.jit
def _quantize_kernel(x, out, scales, x_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < size
    value = tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    quantised = tl.clamp(value / scale, -448.0, 448.0)
    tl.store(out + row * size + column, quantised.to(tl.float8e4nv), mask=mask)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` [num_tokens, size] → float8_e4m3 [num_tokens, size] and fp32 scales [num_tokens, 1]; rows may lie apart."""
    num_tokens, size = x.shape
    assert x.stride(1) == 1 and size <= MAX_SIZE, "a row lies in one piece and fits into one program"
    out = torch.empty((num_tokens, size), dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty((num_tokens, 1), dtype=torch.float32, device=x.device)
    if num_tokens:
        block = triton.next_power_of_2(size)
        _quantize_kernel[(num_tokens,)](
            x, out, scales, x.stride(0), size, BLOCK=block, num_warps=num_warps_for(block)
        )  # fmt: skip
    return out, scales


COMPILE_CASES = [
    CompileCase(
        name=f"size={size}",
        kernel=_quantize_kernel,
        signature={
            "x": "*bf16:16",
            "out": "*fp8e4nv:16",
            "scales": "*fp32:16",
            "x_stride": "i32:16",
            "size": "i32:16",
        },
        constexprs={"BLOCK": triton.next_power_of_2(size)},
        num_warps=num_warps_for(triton.next_power_of_2(size)),
        min_capability=89,
    )
    for size in (896, 3584, 4096, 18944)
]
