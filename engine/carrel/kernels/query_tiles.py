"""How packed queries are cut into tiles: the tokens that one program takes, and which sequence they belong to.

::

    sequences      | A: 5 tokens        | B: 1 | C: 4 tokens    |
    tiles (of 2)   | 0 | 1 | 2 |  -     | 3    | 4 | 5 |  -     |      "-" and whatever is left over: no work

A sequence that starts at row r and is number s begins with tile r // BLOCK_Q + s, which leaves room for every sequence
before it. So the number of tiles follows from the number of rows and sequences, and a program finds its sequence by
bisection in the starts. Knows no keys and no cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from carrel.kernels.online_softmax import block_of


@triton.jit
def find_tile(cu_seqlens, num_seqs, tile, BLOCK_Q: tl.constexpr):
    """(sequence, its first packed row, its rows, the first of them in ``tile``); past its rows: no work."""
    base = tl.load(cu_seqlens)
    low, high = 0, num_seqs
    while low < high:  # the first sequence that begins past the tile
        middle = (low + high) // 2
        start = (tl.load(cu_seqlens + middle) - base) // BLOCK_Q + middle
        if start <= tile:
            low = middle + 1
        else:
            high = middle
    seq = low - 1
    first_row = tl.load(cu_seqlens + seq)
    query_len = tl.load(cu_seqlens + seq + 1) - first_row
    return seq, first_row, query_len, (tile - (first_row - base) // BLOCK_Q - seq) * BLOCK_Q


@dataclass(frozen=True)
class TileShape:
    """Sizes of one program: ``block_q`` tokens with ``group`` query heads each are the rows of its products."""

    group: int
    head_dim: int
    block_q: int
    block_m: int  # rows, block_q * group and the rest up to a power of two
    block_n: int  # keys
    num_warps: int

    def num_tiles(self, num_rows: int, num_seqs: int) -> int:
        return num_rows // self.block_q + num_seqs

    def constexprs(self) -> dict[str, int]:
        return {
            "GROUP": self.group,
            "HEAD_DIM": self.head_dim,
            "BLOCK_Q": self.block_q,
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "BLOCK_D": block_of(self.head_dim),
        }


def tile_shape(group: int, head_dim: int, dtype: torch.dtype, max_query_len: int) -> TileShape:
    """128 rows with 64 keys; 16 rows where sequences are that short, less of all where rows are wide or fp32.

    Two sizes and no more, for each is a kernel of its own that has to be compiled.

    >>> tile_shape(7, 128, torch.bfloat16, 2048)
    TileShape(group=7, head_dim=128, block_q=18, block_m=128, block_n=64, num_warps=8)
    """
    block_d = block_of(head_dim)
    most, block_n = (128, 64) if block_d <= 128 else (64, 32)
    if dtype.itemsize == 4:  # no matrix instructions: operands lie in registers
        most, block_n = 32, 16 if block_d > 64 else 32
    block_m = max(block_of(group), 16 if max_query_len * group <= 32 else most)
    return TileShape(group, head_dim, block_m // group, block_m, block_n, 8 if block_m >= 128 else 4)
