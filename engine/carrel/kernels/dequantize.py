"""Quantised weights back in the model's dtype, for products of many tokens, where a dense GEMM is faster.

The formulas are those of ``reference_gemm``: scale · q for int8, scale · (q − zero) for int4. Bound by bandwidth: one
byte or half a byte read and two written for each weight. Twins: ``dequantize_int8`` and ``dequantize_int4`` there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.reference_gemm import Int4Weight, Int8Weight

BLOCK = 1024  # int8: inputs a program
BLOCK_N = 32  # int4: outputs a program, of one group


@triton.jit
def _int8_kernel(values, scales, out, num_inputs, BLOCK: tl.constexpr):
    output = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < num_inputs
    value = tl.load(values + output * num_inputs + column, mask=mask, other=0).to(tl.float32)
    value *= tl.load(scales + output)
    tl.store(out + output * num_inputs + column, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _int4_kernel(
    packed,  # uint8 [num_groups, num_outputs, GROUP / 2], groups ``group_stride`` rows apart
    scales,
    zeros,
    out,  # [num_outputs, num_groups · GROUP]
    num_outputs,
    group_stride,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    HALF: tl.constexpr = GROUP // 2
    group, num_groups = tl.program_id(0), tl.num_programs(0)
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (output < num_outputs)[:, None]
    byte = tl.arange(0, HALF)
    row = (group * group_stride + output).to(tl.int64)[:, None]
    both = tl.load(packed + row * HALF + byte[None, :], mask=mask, other=0)
    zero = tl.load(zeros + row, mask=mask, other=0).to(tl.float32)
    scale = tl.load(scales + row, mask=mask, other=0.0).to(tl.float32)
    places = out + (output.to(tl.int64)[:, None] * num_groups + group) * GROUP + byte[None, :]
    dtype = out.dtype.element_ty
    tl.store(places, (((both & 15).to(tl.float32) - zero) * scale).to(dtype), mask=mask)
    tl.store(places + HALF, (((both >> 4).to(tl.float32) - zero) * scale).to(dtype), mask=mask)


def dequantize_int8(weight: Int8Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """[num_outputs, num_inputs] in ``dtype``."""
    num_outputs, num_inputs = weight.values.shape
    assert weight.values.is_contiguous(), "rows of the weight follow each other"
    out = torch.empty((num_outputs, num_inputs), dtype=dtype, device=weight.values.device)
    if out.numel():
        grid = (num_outputs, triton.cdiv(num_inputs, BLOCK))
        _int8_kernel[grid](weight.values, weight.scales, out, num_inputs, BLOCK=BLOCK)
    return out


def dequantize_int4(weight: Int4Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """[num_outputs, num_inputs] in ``dtype``; the parts may be slices of some outputs of a larger weight."""
    num_groups, num_outputs, half = weight.packed.shape
    group_stride = weight.scales.stride(0)
    assert weight.packed.stride() == (group_stride * half, half, 1), "outputs of a group follow each other"
    assert weight.scales.stride() == weight.zeros.stride() == (group_stride, 1), "outputs of a group follow each other"
    out = torch.empty((num_outputs, num_groups * 2 * half), dtype=dtype, device=weight.packed.device)
    if out.numel():
        _int4_kernel[(num_groups, triton.cdiv(num_outputs, BLOCK_N))](
            weight.packed, weight.scales, weight.zeros, out, num_outputs, group_stride,
            GROUP=2 * half, BLOCK_N=BLOCK_N,
        )  # fmt: skip
    return out


COMPILE_CASES = [
    CompileCase(
        name="int8",
        kernel=_int8_kernel,
        signature={"values": "*i8:16", "scales": "*fp32:16", "out": "*bf16:16", "num_inputs": "i32:16"},
        constexprs={"BLOCK": BLOCK},
    ),
    *(
        CompileCase(
            name=f"int4 g={group}",
            kernel=_int4_kernel,
            signature={
                "packed": "*u8:16",
                "scales": "*bf16:16",
                "zeros": "*u8:16",
                "out": "*bf16:16",
                "num_outputs": "i32:16",
                "group_stride": "i32:16",
            },
            constexprs={"GROUP": group, "BLOCK_N": BLOCK_N},
        )
        for group in (128, 64, 32)
    ),
]
