"""Causal attention of many queries a sequence over the paged cache: prompts, chunks of prompts, and mixes of lengths.

The queries of a sequence are its last tokens; query i at position p_i sees the cached tokens j ≤ p_i, with a window
also j > p_i - window::

    out_i = Σ_j softmax_j(scale * q_i·k_j) v_j

::

    rows of one program    | token t: heads 0..6 | token t + 1: heads 0..6 | ... |     the heads share one key head
    keys                   | every row sees these: no mask ......... | the diagonal: masked |

A program takes BLOCK_Q tokens of one sequence with all query heads of one key head as the rows of its products, so that
keys are read once for the group. It finds its sequence in ``cu_seqlens_q`` by bisection (``query_tiles``): the grid
depends on the number of rows and sequences alone. Programs with the longest rows of keys start first.

Source: FlashAttention-2 (Dao 2023); packing of queries and heads: Ringlein et al. 2025, "The anatomy of a Triton
attention kernel". Twin: ``reference_attention.prefill_attention``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.online_softmax import LOG2_E, attend_tile, dots_in_fp32, inside
from carrel.kernels.query_tiles import TileShape, find_tile, tile_shape


@triton.jit
def _attend_paged(
    acc, total, top, q, positions, table, key_base, value_base, begin, end, scale, window, block_stride, token_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASKED: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    DOT_F32: tl.constexpr,
):  # fmt: skip
    """(acc, total, top) after the tokens from ``begin`` to ``end``; not ``MASKED``: every row sees all of them."""
    dims = tl.arange(0, BLOCK_D)
    for tile in tl.range(begin, end, BLOCK_N):
        tokens = tile + tl.arange(0, BLOCK_N)
        there = (tokens < end) | (not MASKED)
        blocks = tl.load(table + tokens // BLOCK_SIZE, mask=there, other=0).to(tl.int64)
        places = blocks * block_stride + (tokens % BLOCK_SIZE) * token_stride
        offsets = places[:, None] + dims[None, :]
        mask = inside(there, HEAD_DIM, BLOCK_D)
        k = tl.load(key_base + offsets, mask=mask, other=0.0)
        v = tl.load(value_base + offsets, mask=mask, other=0.0)  # 0 beyond the end: 0 · NaN of a stale slot is NaN
        visible = tokens[None, :] <= positions[:, None]
        if HAS_WINDOW:
            visible &= tokens[None, :] > positions[:, None] - window
        acc, total, top = attend_tile(acc, total, top, q, k, v, scale, visible, MASKED, DOT_F32)
    return acc, total, top


@triton.jit(
    do_not_specialize=["num_seqs", "tables_stride"],
    do_not_specialize_on_alignment=["block_tables", "seq_lens", "cu_seqlens_q"],  # behind any number of decodes
)
def _prefill_kernel(
    out,  # [num_tokens, num_heads, HEAD_DIM]
    query,  # [num_tokens, num_heads, HEAD_DIM]
    keys,  # [num_kv_heads, num_blocks, block_size, HEAD_DIM]
    values,  # the same, and the same strides
    block_tables,  # [num_seqs, max_blocks]
    seq_lens,  # [num_seqs]
    cu_seqlens_q,  # [num_seqs + 1]
    num_seqs,
    scale,
    window,
    out_stride,
    query_stride,
    query_head_stride,
    head_stride,
    block_stride,
    token_stride,
    tables_stride,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, HAS_WINDOW: tl.constexpr,
    DOT_F32: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)  # late tokens see the most keys: first
    seq, first_row, query_len, first = find_tile(cu_seqlens_q, num_seqs, tile, BLOCK_Q)
    if first >= query_len:
        return
    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    tokens = first + rows // GROUP  # of the queries of this step
    heads = kv_head * GROUP + rows % GROUP
    last = tl.minimum(first + BLOCK_Q, query_len)
    mask = inside(tokens < last, HEAD_DIM, BLOCK_D)
    places = (first_row + tokens) * query_stride + heads * query_head_stride  # below 2^31, the launcher sees to it
    q = tl.load(query + places[:, None] + dims[None, :], mask=mask, other=0.0)

    prefix = tl.load(seq_lens + seq) - query_len
    positions = prefix + tokens
    begin, end = 0, prefix + last
    diagonal = (prefix + first + 1) // BLOCK_N * BLOCK_N  # whole tiles that the first row sees, and so every row
    if HAS_WINDOW:
        begin = tl.maximum(prefix + first - window + 1, 0) // BLOCK_N * BLOCK_N
        diagonal = begin
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    table = block_tables + seq.to(tl.int64) * tables_stride
    key_base, value_base = keys + kv_head.to(tl.int64) * head_stride, values + kv_head.to(tl.int64) * head_stride
    if not HAS_WINDOW:
        acc, total, top = _attend_paged(
            acc, total, top, q, positions, table, key_base, value_base, begin, diagonal, scale, window,
            block_stride, token_stride, HEAD_DIM, BLOCK_SIZE, BLOCK_N, BLOCK_D, False, False, DOT_F32,
        )  # fmt: skip
    acc, total, top = _attend_paged(
        acc, total, top, q, positions, table, key_base, value_base, diagonal, end, scale, window,
        block_stride, token_stride, HEAD_DIM, BLOCK_SIZE, BLOCK_N, BLOCK_D, True, HAS_WINDOW, DOT_F32,
    )  # fmt: skip
    acc = acc / tl.where(top == float("-inf"), 1.0, total)[:, None]  # rows past the end may have seen nothing
    places = (first_row + tokens) * out_stride + heads * HEAD_DIM
    tl.store(out + places[:, None] + dims[None, :], acc.to(out.dtype.element_ty), mask=mask)


def prefill_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    *,
    scale: float,
    window: int | None = None,
    num_rows: int | None = None,
    max_query_len: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The last tokens of each sequence over its cached tokens, themselves included → [num_tokens, num_heads, head_dim].

    Args:
        query: [num_tokens, num_heads, head_dim]; rows and heads may lie apart.
        keys, values: [num_kv_heads, num_blocks, block_size, head_dim]; this step's are already stored.
        block_tables: integers [num_seqs, max_blocks]; what lies behind a sequence's last block is not read.
        seq_lens: integers [num_seqs], tokens in the cache; a sequence may have no query row at all.
        cu_seqlens_q: integers [num_seqs + 1], first row of each sequence in ``query``, and the end of the last; need
            not begin at 0 or end at num_tokens. Rows outside are not written.
        scale: of the product of a query and a key, 1 / sqrt(head_dim) as a rule.
        window: a query sees so many tokens, itself included; None: all.
        num_rows: at least the rows between the ends of ``cu_seqlens_q``; default num_tokens. Decides the grid.
        max_query_len: at least the rows of any sequence; default ``num_rows``. Decides the size of a tile.
        out: where to write, [num_tokens, num_heads, head_dim], contiguous; default a new tensor.
    """
    (num_tokens, num_heads, head_dim), (num_kv_heads, _, block_size, _) = query.shape, keys.shape
    assert query.stride(2) == keys.stride(3) == block_tables.stride(1) == 1, "the last dimension lies in one piece"
    assert keys.stride() == values.stride(), "keys and values lie alike"
    assert num_tokens * query.stride(0) < 2**31, "offsets of queries are 32 bit"
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=query.dtype, device=query.device) if out is None else out
    assert out.is_contiguous(), "the result lies in one piece"
    num_rows, num_seqs = num_tokens if num_rows is None else num_rows, seq_lens.shape[0]
    if not num_rows or not num_seqs:
        return out
    shape = tile_shape(num_heads // num_kv_heads, head_dim, query.dtype, max_query_len or num_rows)
    _prefill_kernel[(num_kv_heads, shape.num_tiles(num_rows, num_seqs))](
        out, query, keys, values, block_tables, seq_lens, cu_seqlens_q, num_seqs, scale * LOG2_E, window or 0,
        out.stride(0), query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        block_tables.stride(0), BLOCK_SIZE=block_size, HAS_WINDOW=window is not None, DOT_F32=dots_in_fp32(query),
        num_warps=shape.num_warps, num_stages=_num_stages(shape), **shape.constexprs(),
    )  # fmt: skip
    return out


def _num_stages(shape: TileShape) -> int:
    """The table is loaded some tiles before the keys; what is left are two tiles in flight, three for large heads."""
    return 5 if shape.head_dim > 64 else 4


def _compile_cases() -> list[CompileCase]:
    shapes = [(128, 7, False), (128, 4, False), (128, 4, True), (128, 2, False), (64, 7, False), (96, 1, False)]
    return [_case(*shape, max_query_len) for shape in shapes for max_query_len in (2, 512)]


def _case(head_dim: int, group: int, has_window: bool, max_query_len: int) -> CompileCase:
    shape = tile_shape(group, head_dim, torch.bfloat16, max_query_len)
    strides = ("out_stride", "query_stride", "query_head_stride", "block_stride", "token_stride")
    return CompileCase(
        name=f"head_dim={head_dim} group={group} rows={shape.block_m}{' window' * has_window}",
        kernel=_prefill_kernel,
        signature={
            **dict.fromkeys(("out", "query", "keys", "values"), "*bf16:16"),
            **dict.fromkeys(("block_tables", "seq_lens", "cu_seqlens_q"), "*i32"),
            "num_seqs": "i32",
            "scale": "fp32",
            "window": "i32:16",
            **dict.fromkeys(strides, "i32:16"),
            "head_stride": "i64:16",
            "tables_stride": "i32",
        },
        constexprs={**shape.constexprs(), "BLOCK_SIZE": 16, "HAS_WINDOW": has_window, "DOT_F32": False},
        num_warps=shape.num_warps,
        num_stages=_num_stages(shape),
        needs_mma=True,
    )


COMPILE_CASES = _compile_cases()
