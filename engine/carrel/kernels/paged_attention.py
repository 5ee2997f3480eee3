"""Attention of one query a sequence over the paged cache: the decode step, split over the keys.

For the query q of a head and the keys k_j, values v_j of its sequence that it sees (all, or the last ``window``)::

    out = Σ_j p_j v_j        p = softmax(scale * q·k)

::

    keys of one sequence   | split 0 ....... | split 1 ....... | split 2 ... |      a program each, in parallel
                                 out_0, lse_0       out_1, lse_1    out_2, lse_2
    out = Σ_s w_s out_s         w = softmax(lse)                                    a second, tiny kernel

The query heads that share a key head are the rows of one product, so that keys are read once; bound by bandwidth,
2 * num_kv_heads * head_dim * seq_len elements a sequence. Grid and workspace depend on the number of sequences alone,
and every length is read on the device: a CUDA graph replays with other lengths. Rows with seq_len 0 (padding) give
zeros.

Source: Flash-Decoding (Dao, Haziza, Massa, Sizov 2023), PagedAttention (Kwon et al. 2023).
Twin: ``reference_attention.paged_attention``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.online_softmax import LOG2_E, attend_tile, block_of, dots_in_fp32, inside

MAX_SPLITS = 64  # the reduce holds one row for each
MIN_SPLIT = 128  # tokens; below that a split costs more than it brings
NUM_WARPS = 4
NUM_STAGES = 5  # the table is loaded two tiles before the keys, and those two before their product


@triton.jit
def _split_range(seq_len, window, split, NUM_SPLITS: tl.constexpr, MIN_TOKENS: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """(start, end) of the tokens of ``split``; start ≥ seq_len when there is nothing for it."""
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(seq_len - window, 0)
    size = tl.cdiv(tl.cdiv(seq_len - first, NUM_SPLITS), MIN_TOKENS) * MIN_TOKENS
    start = first + split * size
    return start, tl.minimum(start + size, seq_len)


@triton.jit(do_not_specialize=["tables_stride"])
def _split_kernel(
    out,  # [num_seqs, num_heads, NUM_SPLITS, HEAD_DIM], contiguous; with one split the result itself
    lse,  # [num_seqs, num_heads, NUM_SPLITS] fp32
    query,  # [num_seqs, num_heads, HEAD_DIM]
    keys,  # [num_kv_heads, num_blocks, block_size, HEAD_DIM]
    values,  # the same, and the same strides
    block_tables,  # [num_seqs, max_blocks]
    seq_lens,  # [num_seqs]
    scale,
    window,
    query_stride,
    query_head_stride,
    head_stride,
    block_stride,
    token_stride,
    tables_stride,
    NUM_SPLITS: tl.constexpr,
    MIN_TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    DOT_F32: tl.constexpr,
):
    seq, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    seq_len = tl.load(seq_lens + seq)
    start, end = _split_range(seq_len, window, split, NUM_SPLITS, MIN_TOKENS, HAS_WINDOW)
    if NUM_SPLITS > 1 and start >= end:
        return  # the reduce does not read this split
    rows = tl.arange(0, BLOCK_M)  # the query heads of kv_head
    dims = tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + rows
    own = inside(rows < GROUP, HEAD_DIM, BLOCK_D)
    q = tl.load(query + seq * query_stride + head[:, None] * query_head_stride + dims[None, :], mask=own, other=0.0)

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    table = block_tables + seq * tables_stride
    key_base, value_base = keys + kv_head * head_stride, values + kv_head * head_stride
    for tile in tl.range(start, end, BLOCK_N):
        tokens = tile + tl.arange(0, BLOCK_N)
        seen = tokens < end
        blocks = tl.load(table + tokens // BLOCK_SIZE, mask=seen, other=0).to(tl.int64)
        places = blocks * block_stride + (tokens % BLOCK_SIZE) * token_stride
        offsets = places[:, None] + dims[None, :]
        mask = inside(seen, HEAD_DIM, BLOCK_D)
        k = tl.load(key_base + offsets, mask=mask, other=0.0)
        v = tl.load(value_base + offsets, mask=mask, other=0.0)  # 0 beyond the end: 0 · NaN of a stale slot is NaN
        acc, total, top = attend_tile(acc, total, top, q, k, v, scale, seen[None, :], True, DOT_F32)

    total_or_one = tl.where(top == float("-inf"), 1.0, total)  # no token at all: zeros
    places = (seq * tl.num_programs(1) * GROUP + head) * NUM_SPLITS + split
    normed = (acc / total_or_one[:, None]).to(out.dtype.element_ty)
    tl.store(out + places[:, None] * HEAD_DIM + dims[None, :], normed, mask=own)
    if NUM_SPLITS > 1:
        tl.store(lse + places, top + tl.log2(total_or_one), mask=rows < GROUP)


@triton.jit
def _reduce_kernel(
    out,  # [num_seqs, num_heads, HEAD_DIM]
    partial,  # [num_seqs, num_heads, NUM_SPLITS, HEAD_DIM] fp32
    lse,  # [num_seqs, num_heads, NUM_SPLITS] fp32
    seq_lens,
    window,
    NUM_SPLITS: tl.constexpr,
    MIN_TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    seq, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = seq * tl.num_programs(1) + head
    dims = tl.arange(0, BLOCK_D)
    splits = tl.arange(0, BLOCK_S)
    seq_len = tl.load(seq_lens + seq)
    start, end = _split_range(seq_len, window, splits, NUM_SPLITS, MIN_TOKENS, HAS_WINDOW)
    filled = (splits < NUM_SPLITS) & (start < end)
    places = row * NUM_SPLITS + splits
    logs = tl.load(lse + places, mask=filled, other=float("-inf"))
    top = tl.max(logs, 0)
    weights = tl.exp2(logs - tl.where(top == float("-inf"), 0.0, top))  # 0 where nothing was filled
    mask = inside(filled, HEAD_DIM, BLOCK_D)
    parts = tl.load(partial + places[:, None] * HEAD_DIM + dims[None, :], mask=mask, other=0.0)
    total = tl.sum(weights, 0)
    merged = tl.sum(parts * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out + row * HEAD_DIM + dims, merged.to(out.dtype.element_ty), mask=dims < HEAD_DIM)


def paged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    num_splits: int = 1,
    out: Tensor | None = None,
) -> Tensor:
    """One query a sequence over its cached tokens, itself included → [num_seqs, num_heads, head_dim].

    Args:
        query: [num_seqs, num_heads, head_dim]; rows and heads may lie apart.
        keys, values: [num_kv_heads, num_blocks, block_size, head_dim].
        block_tables: integers [num_seqs, max_blocks]; what lies behind a sequence's last block is not read.
        seq_lens: integers [num_seqs], tokens in the cache; 0 gives a row of zeros.
        scale: of the product of a query and a key, 1 / sqrt(head_dim) as a rule.
        window: a query sees so many tokens, itself included; None: all.
        num_splits: programs for each sequence and key head; see ``choose_num_splits``.
        out: where to write, [num_seqs, num_heads, head_dim], contiguous; default a new tensor.
    """
    num_seqs, num_heads, head_dim = query.shape
    num_kv_heads, _, block_size, _ = keys.shape
    assert query.stride(2) == keys.stride(3) == block_tables.stride(1) == 1, "the last dimension lies in one piece"
    assert keys.stride() == values.stride(), "keys and values lie alike"
    out = torch.empty((num_seqs, num_heads, head_dim), dtype=query.dtype, device=query.device) if out is None else out
    assert out.is_contiguous(), "the result lies in one piece"
    if not num_seqs:
        return out
    group, block_d = num_heads // num_kv_heads, block_of(head_dim)
    split_shape = (num_seqs, num_heads, num_splits)
    lse = torch.empty(split_shape, dtype=torch.float32, device=query.device) if num_splits > 1 else out
    partial = torch.empty((*split_shape, head_dim), dtype=torch.float32, device=query.device) if num_splits > 1 else out
    shared = {"NUM_SPLITS": num_splits, "MIN_TOKENS": MIN_SPLIT, "HEAD_DIM": head_dim, "BLOCK_D": block_d}
    has_window = window is not None
    _split_kernel[(num_seqs, num_kv_heads, num_splits)](
        partial, lse, query, keys, values, block_tables, seq_lens, scale * LOG2_E, window or 0,
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2), block_tables.stride(0),
        GROUP=group, BLOCK_SIZE=block_size, BLOCK_M=block_of(group), BLOCK_N=_tokens_a_tile(block_d, query.dtype),
        HAS_WINDOW=has_window, DOT_F32=dots_in_fp32(query), num_warps=NUM_WARPS, num_stages=NUM_STAGES, **shared,
    )  # fmt: skip
    if num_splits > 1:
        _reduce_kernel[(num_seqs, num_heads)](
            out, partial, lse, seq_lens, window or 0,
            BLOCK_S=triton.next_power_of_2(num_splits), HAS_WINDOW=has_window, num_warps=NUM_WARPS, **shared,
        )  # fmt: skip
    return out


def _tokens_a_tile(block_d: int, dtype: torch.dtype) -> int:
    """16 KiB of keys a tile: two stages of keys and values in flight are 64 KiB, two or three programs on an SM."""
    return min(MIN_SPLIT, max(16, 16384 // (block_d * dtype.itemsize)))


def choose_num_splits(num_seqs: int, num_kv_heads: int, max_seq_len: int, num_sms: int) -> int:
    """Splits that give one or two programs to each of ``num_sms`` multiprocessors, as far as the tokens go.

    Depends on nothing that changes between the replays of one graph: ``max_seq_len`` is the most that can come. Powers
    of two, for every number of splits is a kernel of its own that has to be compiled.

    >>> choose_num_splits(1, 2, 32768, 132), choose_num_splits(12, 8, 32768, 132), choose_num_splits(256, 8, 32768, 132)
    (64, 2, 1)
    """
    programs = max(1, num_seqs * num_kv_heads)
    wanted = min(-(-2 * num_sms // programs), -(-max_seq_len // MIN_SPLIT), MAX_SPLITS)
    return 1 << (max(1, wanted).bit_length() - 1)


def _compile_cases() -> list[CompileCase]:
    shapes = [(128, 7, 1, False), (128, 7, 32, False), (128, 4, 64, True), (64, 7, 64, False), (96, 8, 8, False)]
    return [
        case
        for head_dim, group, num_splits, has_window in shapes
        for case in _cases(head_dim, group, num_splits, has_window)
    ]


def _cases(head_dim: int, group: int, num_splits: int, has_window: bool) -> list[CompileCase]:
    name = f"head_dim={head_dim} group={group} splits={num_splits}{' window' if has_window else ''}"
    block_d = block_of(head_dim)
    shared = {"NUM_SPLITS": num_splits, "MIN_TOKENS": MIN_SPLIT, "HEAD_DIM": head_dim, "BLOCK_D": block_d}
    shared |= {"HAS_WINDOW": has_window}
    strides = ("query_stride", "query_head_stride", "block_stride", "token_stride")
    pointers = {"query": "*bf16:16", "keys": "*bf16:16", "values": "*bf16:16", "block_tables": "*i32:16"}
    split = CompileCase(
        name=f"split {name}",
        kernel=_split_kernel,
        signature={
            "out": "*fp32:16" if num_splits > 1 else "*bf16:16",
            "lse": "*fp32:16" if num_splits > 1 else "*bf16:16",
            **pointers,
            "seq_lens": "*i32:16",
            "scale": "fp32",
            "window": "i32:16",
            **dict.fromkeys(strides, "i32:16"),
            "head_stride": "i64:16",
            "tables_stride": "i32",
        },
        constexprs={
            **shared,
            "GROUP": group,
            "BLOCK_SIZE": 16,
            "BLOCK_M": block_of(group),
            "BLOCK_N": _tokens_a_tile(block_d, torch.bfloat16),
            "DOT_F32": False,
        },
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        needs_mma=True,
    )
    reduce = CompileCase(
        name=f"reduce {name}",
        kernel=_reduce_kernel,
        signature={"out": "*bf16:16", "partial": "*fp32:16", "lse": "*fp32:16", "seq_lens": "*i32:16", "window": "i32"},
        constexprs={**shared, "BLOCK_S": triton.next_power_of_2(num_splits)},
        num_warps=NUM_WARPS,
    )
    return [split, reduce] if num_splits > 1 else [split]


COMPILE_CASES = _compile_cases()
