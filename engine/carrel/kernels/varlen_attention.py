"""Attention of packed sequences over themselves: encoders, and decoders that cache nothing (embedders).

Sequences lie end to end without padding; token i of a sequence sees its tokens j, all of them or, causal, j ≤ i; with a
window also j > i - window::

    out_i = Σ_j softmax_j(scale * q_i·k_j) v_j

Tiles of queries as in ``query_tiles``; keys and values lie as they came from the projection. Source: FlashAttention-2
(Dao 2023). Twin: ``reference_attention.varlen_attention``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.online_softmax import LOG2_E, attend_tile, dots_in_fp32, inside
from carrel.kernels.query_tiles import find_tile, tile_shape

NUM_STAGES = 3


@triton.jit
def _attend_packed(
    acc, total, top, q, positions, key_base, value_base, begin, end, scale, window, key_stride, value_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASKED: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    DOT_F32: tl.constexpr,
):  # fmt: skip
    """(acc, total, top) after the tokens from ``begin`` to ``end``; not ``MASKED``: every row sees all of them."""
    dims = tl.arange(0, BLOCK_D)
    for tile in tl.range(begin, end, BLOCK_N):
        tokens = tile + tl.arange(0, BLOCK_N)
        there = (tokens < end) | (not MASKED)
        mask = inside(there, HEAD_DIM, BLOCK_D)
        k = tl.load(key_base + tokens[:, None] * key_stride + dims[None, :], mask=mask, other=0.0)
        v = tl.load(value_base + tokens[:, None] * value_stride + dims[None, :], mask=mask, other=0.0)
        visible = there[None, :]
        if CAUSAL:
            visible &= tokens[None, :] <= positions[:, None]
        if HAS_WINDOW:
            visible &= tokens[None, :] > positions[:, None] - window
        acc, total, top = attend_tile(acc, total, top, q, k, v, scale, visible, MASKED, DOT_F32)
    return acc, total, top


@triton.jit(do_not_specialize=["num_seqs"], do_not_specialize_on_alignment=["cu_seqlens"])
def _varlen_kernel(
    out,  # [num_tokens, num_heads, HEAD_DIM]
    query,  # [num_tokens, num_heads, HEAD_DIM]
    key,  # [num_tokens, num_kv_heads, HEAD_DIM]
    value,  # [num_tokens, num_kv_heads, HEAD_DIM]
    cu_seqlens,  # [num_seqs + 1]
    num_seqs,
    scale,
    window,
    out_stride,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr,
    DOT_F32: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    _, first_row, seq_len, first = find_tile(cu_seqlens, num_seqs, tile, BLOCK_Q)
    if first >= seq_len:
        return
    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    positions = first + rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    last = tl.minimum(first + BLOCK_Q, seq_len)
    mask = inside(positions < last, HEAD_DIM, BLOCK_D)
    packed = first_row + positions
    places = packed * query_stride + heads * query_head_stride  # below 2^31, the launcher sees to it
    q = tl.load(query + places[:, None] + dims[None, :], mask=mask, other=0.0)

    begin, end = 0, seq_len
    whole = seq_len // BLOCK_N * BLOCK_N  # where tiles that every row sees entirely end
    if CAUSAL:
        end = last
        whole = (first + 1) // BLOCK_N * BLOCK_N
    if HAS_WINDOW:
        begin = tl.maximum(first - window + 1, 0) // BLOCK_N * BLOCK_N
        whole = begin
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    key_base = key + first_row * key_stride + kv_head * key_head_stride
    value_base = value + first_row * value_stride + kv_head * value_head_stride
    if not HAS_WINDOW:
        acc, total, top = _attend_packed(
            acc, total, top, q, positions, key_base, value_base, begin, whole, scale, window, key_stride, value_stride,
            HEAD_DIM, BLOCK_N, BLOCK_D, False, CAUSAL, False, DOT_F32,
        )  # fmt: skip
    acc, total, top = _attend_packed(
        acc, total, top, q, positions, key_base, value_base, whole, end, scale, window, key_stride, value_stride,
        HEAD_DIM, BLOCK_N, BLOCK_D, True, CAUSAL, HAS_WINDOW, DOT_F32,
    )  # fmt: skip
    acc = acc / tl.where(top == float("-inf"), 1.0, total)[:, None]  # rows past the end may have seen nothing
    places = packed * out_stride + heads * HEAD_DIM
    tl.store(out + places[:, None] + dims[None, :], acc.to(out.dtype.element_ty), mask=mask)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    *,
    max_seq_len: int,
    scale: float,
    causal: bool = False,
    window: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Each of the packed sequences over itself → [num_tokens, num_heads, head_dim].

    Args:
        query: [num_tokens, num_heads, head_dim]; rows and heads may lie apart, as in a fused projection.
        key, value: [num_tokens, num_kv_heads, head_dim]; the same.
        cu_seqlens: integers [num_seqs + 1], first row of each sequence, and the end of the last; need not begin at 0 or
            end at num_tokens. Rows outside are not written.
        max_seq_len: at least the tokens of any sequence. Decides the size of a tile, not the grid.
        scale: of the product of a query and a key, 1 / sqrt(head_dim) as a rule.
        causal: a token sees itself and what is before it; otherwise the whole sequence.
        window: with ``causal``, a token sees so many tokens, itself included; None: all.
        out: where to write, [num_tokens, num_heads, head_dim], contiguous; default a new tensor.
    """
    assert causal or window is None, "a window looks back"
    (num_tokens, num_heads, head_dim), num_kv_heads = query.shape, key.shape[1]
    assert query.stride(2) == key.stride(2) == value.stride(2) == 1, "the last dimension lies in one piece"
    assert num_tokens * max(query.stride(0), key.stride(0), value.stride(0)) < 2**31, "offsets are 32 bit"
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=query.dtype, device=query.device) if out is None else out
    assert out.is_contiguous(), "the result lies in one piece"
    num_seqs = cu_seqlens.shape[0] - 1
    if not num_tokens or not num_seqs:
        return out
    shape = tile_shape(num_heads // num_kv_heads, head_dim, query.dtype, max_seq_len)
    _varlen_kernel[(num_kv_heads, shape.num_tiles(num_tokens, num_seqs))](
        out, query, key, value, cu_seqlens, num_seqs, scale * LOG2_E, window or 0, out.stride(0),
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        CAUSAL=causal, HAS_WINDOW=window is not None, DOT_F32=dots_in_fp32(query),
        num_warps=shape.num_warps, num_stages=NUM_STAGES, **shape.constexprs(),
    )  # fmt: skip
    return out


def _compile_cases() -> list[CompileCase]:
    shapes = [(64, 1, False, False), (32, 1, False, False), (128, 2, True, False), (64, 7, True, True)]
    return [_case(*shape, max_seq_len) for shape in shapes for max_seq_len in (2, 512)]


def _case(head_dim: int, group: int, causal: bool, has_window: bool, max_seq_len: int) -> CompileCase:
    shape = tile_shape(group, head_dim, torch.bfloat16, max_seq_len)
    strides = [f"{part}{kind}_stride" for part in ("query", "key", "value") for kind in ("", "_head")]
    return CompileCase(
        name=f"head_dim={head_dim} group={group} rows={shape.block_m}{' causal' * causal}{' window' * has_window}",
        kernel=_varlen_kernel,
        signature={
            **dict.fromkeys(("out", "query", "key", "value"), "*bf16:16"),
            "cu_seqlens": "*i32",
            "num_seqs": "i32",
            "scale": "fp32",
            "window": "i32:16",
            **dict.fromkeys(("out_stride", *strides), "i32:16"),
        },
        constexprs={**shape.constexprs(), "CAUSAL": causal, "HAS_WINDOW": has_window, "DOT_F32": False},
        num_warps=shape.num_warps,
        num_stages=NUM_STAGES,
        needs_mma=True,
    )


COMPILE_CASES = _compile_cases()
