"""Products with int8 or int4 weights for few tokens: the weights are read once, in a half or a quarter of the bytes.

::

    y[m, n] = scale[n] · Σ_k q[n, k] x[m, k]  + bias[n]                                   int8
    y[m, n] = Σ_g scale[g, n] · Σ_{k in g} (q[n, k] − zero[g, n]) x[m, k]  + bias[n]      int4

    inputs k    | split 0 ..... | split 1 ..... | split 2 ..... |    a program for each block of outputs and each split
                    part 0          part 1          part 2           fp32 [splits, num_tokens, num_outputs]
    y = Σ parts, in their order, by a second kernel                  the same bits in every run

Integers and their differences are exact in bf16 and fp16, so the product is rounded nowhere but in its fp32 sum. The
weights are the left operand of the matrix instruction: Hopper takes that one from registers, straight from the
conversion. Splitting the inputs fills the chip where one block of outputs for each multiprocessor would not (Split-K:
arXiv 2402.00025). Pays while the product is bound by bandwidth; ``layers/quantized_linear.py`` knows what to do above.
Twins: ``reference_gemm.int8_linear`` and ``reference_gemm.int4_linear``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.online_softmax import dots_in_fp32
from carrel.kernels.reference_gemm import Int4Weight, Int8Weight

BLOCK_K = 128  # int8: inputs a step
BLOCK_N = 64  # outputs a program: the rows of one wgmma
REDUCE_BLOCK = 512
MAX_SPLITS = 16
NUM_WARPS = 4
NUM_STAGES = 4


@triton.jit
def _product(weight, x, acc, DOT_F32: tl.constexpr):
    """acc + weight · x for integer ``weight``."""
    if DOT_F32:
        return tl.dot(weight.to(tl.float32), x.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(weight.to(x.dtype), x, acc)


@triton.jit
def _store(out, acc, bias, token, output, num_tokens, num_outputs, HAS_BIAS: tl.constexpr, SPLITS: tl.constexpr):
    """The result itself, or with several splits the part of this one; ``acc`` [outputs, tokens]."""
    inside = (output < num_outputs)[:, None] & (token < num_tokens)[None, :]
    if SPLITS == 1:
        if HAS_BIAS:
            acc += tl.load(bias + output, mask=output < num_outputs, other=0.0).to(tl.float32)[:, None]
    else:
        out += tl.program_id(2).to(tl.int64) * num_tokens * num_outputs
    places = out + token.to(tl.int64)[None, :] * num_outputs + output[:, None]
    tl.store(places, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_tokens"])  # or 1, 16 and 17 tokens are three compilations
def _int8_kernel(
    out,  # [num_tokens, num_outputs], or fp32 [SPLITS, num_tokens, num_outputs]
    x,  # [num_tokens, num_inputs]
    values,  # int8 [num_outputs, num_inputs]
    scales,  # fp32 [num_outputs]
    bias,
    num_tokens,
    num_outputs,
    num_inputs,
    x_stride,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DOT_F32: tl.constexpr,
):
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.cdiv(tl.cdiv(num_inputs, BLOCK_K), SPLITS)
    start = tl.program_id(2) * steps * BLOCK_K
    end = tl.minimum(start + steps * BLOCK_K, num_inputs)
    rows = values + output.to(tl.int64)[:, None] * num_inputs
    columns = x + token.to(tl.int64)[None, :] * x_stride
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for first in tl.range(start, end, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        w = tl.load(rows + k[None, :], mask=(output < num_outputs)[:, None] & (k < end)[None, :], other=0)
        inputs = tl.load(columns + k[:, None], mask=(k < end)[:, None] & (token < num_tokens)[None, :], other=0.0)
        acc = _product(w, inputs, acc, DOT_F32)
    acc *= tl.load(scales + output, mask=output < num_outputs, other=0.0)[:, None]
    _store(out, acc, bias, token, output, num_tokens, num_outputs, HAS_BIAS, SPLITS)


@triton.jit(do_not_specialize=["num_tokens"])  # or 1, 16 and 17 tokens are three compilations
def _int4_kernel(
    out,  # [num_tokens, num_outputs], or fp32 [SPLITS, num_tokens, num_outputs]
    x,  # [num_tokens, num_groups · GROUP]
    packed,  # uint8 [num_groups, num_outputs, GROUP / 2]
    scales,  # [num_groups, num_outputs]
    zeros,  # uint8 [num_groups, num_outputs]
    bias,
    num_tokens,
    num_outputs,
    num_groups,
    x_stride,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP: tl.constexpr,
    DOT_F32: tl.constexpr,
):
    HALF: tl.constexpr = GROUP // 2
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.cdiv(num_groups, SPLITS)
    start = tl.program_id(2) * steps
    end = tl.minimum(start + steps, num_groups)
    byte = tl.arange(0, HALF)
    in_outputs, in_tokens = output < num_outputs, (token < num_tokens)[None, :]
    columns = x + token.to(tl.int64)[None, :] * x_stride
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for group in tl.range(start, end):
        row = (group * num_outputs + output).to(tl.int64)
        both = tl.load(packed + row[:, None] * HALF + byte[None, :], mask=in_outputs[:, None], other=0)
        zero = tl.load(zeros + row, mask=in_outputs, other=0).to(x.dtype.element_ty)[:, None]
        scale = tl.load(scales + row, mask=in_outputs, other=0.0).to(tl.float32)[:, None]
        places = columns + (group * GROUP + byte)[:, None]
        first = tl.load(places, mask=in_tokens, other=0.0)
        second = tl.load(places + HALF, mask=in_tokens, other=0.0)
        part = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        part = _product((both & 15).to(tl.int8).to(x.dtype.element_ty) - zero, first, part, DOT_F32)
        part = _product((both >> 4).to(tl.int8).to(x.dtype.element_ty) - zero, second, part, DOT_F32)
        acc += part * scale
    _store(out, acc, bias, token, output, num_tokens, num_outputs, HAS_BIAS, SPLITS)


@triton.jit
def _reduce_kernel(
    out, parts, bias, num_elements, num_outputs, HAS_BIAS: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = element < num_elements
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + num_elements * split + element, mask=mask, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + element % num_outputs, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + element, total.to(out.dtype.element_ty), mask=mask)


def int8_linear(x: Tensor, weight: Int8Weight, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias for ``x`` [num_tokens, num_inputs] → [num_tokens, num_outputs]; rows of ``x`` may lie apart."""
    num_outputs, num_inputs = weight.values.shape
    assert x.shape[1] == num_inputs and weight.values.is_contiguous(), "rows of the weight follow each other"
    out = torch.empty((len(x), num_outputs), dtype=x.dtype, device=x.device)
    if not len(x):
        return out
    block_m, splits = choose_tile(len(x), num_outputs, triton.cdiv(num_inputs, BLOCK_K), num_sms(x.device))
    parts = _parts(out, splits)
    _int8_kernel[(triton.cdiv(num_outputs, BLOCK_N), triton.cdiv(len(x), block_m), splits)](
        parts, x, weight.values, weight.scales, x if bias is None else bias,
        len(x), num_outputs, num_inputs, x.stride(0),
        HAS_BIAS=bias is not None, SPLITS=splits, BLOCK_M=block_m, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        DOT_F32=dots_in_fp32(x), num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    _reduce(out, parts, bias, splits)
    return out


def int4_linear(x: Tensor, weight: Int4Weight, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias for ``x`` [num_tokens, num_inputs] → [num_tokens, num_outputs]; rows of ``x`` may lie apart."""
    num_groups, num_outputs, half = weight.packed.shape
    assert x.shape[1] == num_groups * 2 * half and weight.packed.is_contiguous(), "slabs of groups follow each other"
    out = torch.empty((len(x), num_outputs), dtype=x.dtype, device=x.device)
    if not len(x):
        return out
    block_m, splits = choose_tile(len(x), num_outputs, num_groups, num_sms(x.device))
    parts = _parts(out, splits)
    _int4_kernel[(triton.cdiv(num_outputs, BLOCK_N), triton.cdiv(len(x), block_m), splits)](
        parts, x, weight.packed, weight.scales, weight.zeros, x if bias is None else bias,
        len(x), num_outputs, num_groups, x.stride(0),
        HAS_BIAS=bias is not None, SPLITS=splits, BLOCK_M=block_m, BLOCK_N=BLOCK_N, GROUP=2 * half,
        DOT_F32=dots_in_fp32(x), num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    _reduce(out, parts, bias, splits)
    return out


def num_sms(device: torch.device) -> int:
    """Multiprocessors of a GPU; of an H200 where there is none."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def choose_tile(num_tokens: int, num_outputs: int, num_steps: int, sms: int) -> tuple[int, int]:
    """(tokens a program, splits of the inputs): two programs for each of ``sms``, each with two of ``num_steps``.

    >>> choose_tile(1, 4096, 32, 132), choose_tile(40, 37888, 28, 132), choose_tile(8, 896, 38, 132)
    ((16, 5), (64, 1), (16, 13))
    """
    block_m = 16 if num_tokens <= 16 else 32 if num_tokens <= 32 else 64
    blocks = triton.cdiv(num_outputs, BLOCK_N) * triton.cdiv(num_tokens, block_m)
    wanted = max(1, min(triton.cdiv(2 * sms, blocks), num_steps // 2, MAX_SPLITS))
    return block_m, triton.cdiv(num_steps, triton.cdiv(num_steps, wanted))


def _parts(out: Tensor, splits: int) -> Tensor:
    if splits == 1:
        return out
    return torch.empty((splits, *out.shape), dtype=torch.float32, device=out.device)


def _reduce(out: Tensor, parts: Tensor, bias: Tensor | None, splits: int) -> None:
    if splits > 1:
        _reduce_kernel[(triton.cdiv(out.numel(), REDUCE_BLOCK),)](
            out, parts, out if bias is None else bias, out.numel(), out.shape[1],
            HAS_BIAS=bias is not None, SPLITS=splits, BLOCK=REDUCE_BLOCK,
        )  # fmt: skip


def _case(num_inputs: int, num_outputs: int, num_tokens: int, group: int | None) -> CompileCase:
    """int8 where ``group`` is None."""
    steps = triton.cdiv(num_inputs, group or BLOCK_K)
    block_m, splits = choose_tile(num_tokens, num_outputs, steps, 132)
    weights = (
        {"values": "*i8:16", "scales": "*fp32:16", "num_inputs": "i32:16"}
        if group is None
        else {"packed": "*u8:16", "scales": "*bf16:16", "zeros": "*u8:16", "num_groups": "i32"}
    )
    return CompileCase(
        name=f"{'int8' if group is None else f'int4 g={group}'} {num_inputs}x{num_outputs} tokens={num_tokens}",
        kernel=_int8_kernel if group is None else _int4_kernel,
        signature={
            "out": "*bf16:16" if splits == 1 else "*fp32:16",
            "x": "*bf16:16",
            **weights,
            "bias": "*bf16:16",
            "num_tokens": "i32",
            "num_outputs": "i32:16",
            "x_stride": "i32:16",
        },
        constexprs={
            "HAS_BIAS": True,
            "SPLITS": splits,
            "BLOCK_M": block_m,
            "BLOCK_N": BLOCK_N,
            "DOT_F32": False,
            **({"BLOCK_K": BLOCK_K} if group is None else {"GROUP": group}),
        },
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        needs_mma=True,
    )


_SHAPES = [(896, 4864), (3584, 18944), (4096, 4096)]
COMPILE_CASES = [
    *(_case(*shape, num_tokens, group) for shape in _SHAPES for num_tokens in (4, 32, 64) for group in (None, 128)),
    *(_case(4096, 4096, num_tokens, group) for num_tokens in (4, 64) for group in (64, 32)),
    CompileCase(
        name="reduce splits=5",
        kernel=_reduce_kernel,
        signature={
            "out": "*bf16:16",
            "parts": "*fp32:16",
            "bias": "*bf16:16",
            "num_elements": "i32:16",
            "num_outputs": "i32:16",
        },
        constexprs={"HAS_BIAS": True, "SPLITS": 5, "BLOCK": REDUCE_BLOCK},
    ),
]
