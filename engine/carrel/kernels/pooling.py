"""Pooling of packed sequences, in fp32: out[i] = Σ_t w_t · h_t / d over the tokens t of sequence i, or their maximum.

::

    hidden      | sequence 0 ....... | sequence 1 | sequence 2 ............ |     [num_tokens, size]
    cu_seqlens  0                    8            11                        22
    out         one row for each, columns shared out among programs

    mode                      w_t      d
    mean                      1        n
    mean_sqrt_len_tokens      1        sqrt(n)
    weightedmean              1 … n    n (n + 1) / 2
    cls, lasttoken            the one token

A second kernel divides each vector by its length. Source: the Pooling module of sentence-transformers. Tokens are added
in their order, so that a sequence pools to the same bits in any batch. A sequence without tokens (padding) gives zeros.
Twins: ``reference_pooling.pool_tokens`` and ``reference_pooling.l2_normalize``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.pooling_modes import PoolingMode
from carrel.kernels.rms_norm import MAX_SIZE, num_warps_for

BLOCK_TOKENS = 32
BLOCK_COLUMNS = 128
MODES: dict[PoolingMode, int] = {
    "cls": 0,
    "lasttoken": 1,
    "max": 2,
    "mean": 3,
    "mean_sqrt_len_tokens": 4,
    "weightedmean": 5,
}


@triton.jit
def _pool_kernel(
    hidden,  # [num_tokens, size]
    cu_seqlens,  # [num_seqs + 1]
    out,  # [num_seqs, size] fp32
    hidden_stride,
    size,
    MODE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    seq = tl.program_id(0)
    start, end = tl.load(cu_seqlens + seq), tl.load(cu_seqlens + seq + 1)
    length = (end - start).to(tl.float32)
    if MODE == 0:
        end = tl.minimum(end, start + 1)
    if MODE == 1:
        start = tl.maximum(start, end - 1)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    in_row = column < size
    empty = float("-inf") if MODE == 2 else 0.0
    total = tl.full([BLOCK_TOKENS, BLOCK_COLUMNS], empty, tl.float32)
    for first in tl.range(start, end, BLOCK_TOKENS):
        token = first + tl.arange(0, BLOCK_TOKENS)
        places = hidden + token.to(tl.int64)[:, None] * hidden_stride + column[None, :]
        mask = (token < end)[:, None] & in_row[None, :]
        rows = tl.load(places, mask=mask, other=empty).to(tl.float32)
        if MODE == 2:
            total = tl.maximum(total, rows, propagate_nan=tl.PropagateNan.ALL)
        elif MODE == 5:
            total += rows * (token - start + 1).to(tl.float32)[:, None]
        else:
            total += rows
    if MODE == 2:
        pooled = tl.reduce(total, 0, _larger)
        pooled = tl.where(end > start, pooled, 0.0)
    else:
        divisor = 1.0
        if MODE == 3:
            divisor = length
        if MODE == 4:
            divisor = tl.sqrt(length)
        if MODE == 5:
            divisor = length * (length + 1.0) / 2
        pooled = tl.sum(total, 0) / tl.where(end > start, divisor, 1.0)
    tl.store(out + seq.to(tl.int64) * size + column, pooled, mask=in_row)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _normalize_kernel(vectors, out, vectors_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < size
    value = tl.load(vectors + row * vectors_stride + column, mask=mask, other=0.0)
    length = tl.sqrt(tl.sum(value * value, 0))
    tl.store(out + row * size + column, value / tl.maximum(length, 1e-12), mask=mask)


def pool_tokens(hidden: Tensor, cu_seqlens: Tensor, mode: PoolingMode) -> Tensor:
    """[num_tokens, size] → fp32 [num_seqs, size]; rows [cu_seqlens[i], cu_seqlens[i + 1]) are sequence i.

    Args:
        hidden: rows may lie apart.
        cu_seqlens: integers [num_seqs + 1], on the device.
        mode: as of sentence-transformers; see above.
    """
    assert hidden.stride(1) == 1, "a row lies in one piece"
    num_seqs, size = len(cu_seqlens) - 1, hidden.shape[1]
    out = torch.empty((num_seqs, size), dtype=torch.float32, device=hidden.device)
    if num_seqs:
        _pool_kernel[(num_seqs, triton.cdiv(size, BLOCK_COLUMNS))](
            hidden, cu_seqlens, out, hidden.stride(0), size,
            MODE=MODES[mode], BLOCK_TOKENS=BLOCK_TOKENS, BLOCK_COLUMNS=BLOCK_COLUMNS,
        )  # fmt: skip
    return out


def l2_normalize(vectors: Tensor) -> Tensor:
    """v / |v| for each row of fp32 [n, size]; a row of zeros stays one. Rows may lie apart."""
    n, size = vectors.shape
    assert vectors.dtype == torch.float32 and vectors.stride(1) == 1 and size <= MAX_SIZE, "rows of fp32 in one piece"
    out = torch.empty((n, size), dtype=torch.float32, device=vectors.device)
    if n:
        block = triton.next_power_of_2(size)
        _normalize_kernel[(n,)](vectors, out, vectors.stride(0), size, BLOCK=block, num_warps=num_warps_for(block))
    return out


def _cases() -> list[CompileCase]:
    return [
        CompileCase(
            name=f"{mode} {dtype}",
            kernel=_pool_kernel,
            signature={
                "hidden": f"*{dtype}:16",
                "cu_seqlens": "*i32:16",
                "out": "*fp32:16",
                "hidden_stride": "i32:16",
                "size": "i32:16",
            },
            constexprs={"MODE": number, "BLOCK_TOKENS": BLOCK_TOKENS, "BLOCK_COLUMNS": BLOCK_COLUMNS},
        )
        for mode, number in MODES.items()
        for dtype in ("bf16", "fp16")
    ]


COMPILE_CASES = [
    *_cases(),
    *(
        CompileCase(
            name=f"normalize size={size}",
            kernel=_normalize_kernel,
            signature={"vectors": "*fp32:16", "out": "*fp32:16", "vectors_stride": "i32:16", "size": "i32:16"},
            constexprs={"BLOCK": triton.next_power_of_2(size)},
            num_warps=num_warps_for(triton.next_power_of_2(size)),
        )
        for size in (384, 1024, 4096)
    ),
]
