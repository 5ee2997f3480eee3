"""Paged caches with shuffled blocks for the attention tests; unused slots hold NaN, so that reading one shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_SIZE = 16
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass
class PagedCase:
    """Sequences with their keys and values in a cache; ``query`` holds the last ``query_lens`` tokens of each."""

    query: Tensor
    keys: Tensor
    values: Tensor
    block_tables: Tensor
    seq_lens: Tensor
    cu_seqlens_q: Tensor
    scale: float

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.query, self.keys, self.values, self.block_tables, self.seq_lens


def paged_case(
    seq_lens: list[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
    query_lens: list[int] | None = None,
    num_kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 16,
    block_size: int = BLOCK_SIZE,
    seed: int = 0,
) -> PagedCase:
    generator = torch.Generator().manual_seed(seed)
    query_lens = [1] * len(seq_lens) if query_lens is None else query_lens
    counts = [-(-seq_len // block_size) for seq_len in seq_lens]
    num_blocks = sum(counts) + 3
    free = torch.randperm(num_blocks, generator=generator).tolist()
    tables = torch.full((len(seq_lens), max(*counts, 1) + 1), 10**6, dtype=torch.int32)  # reading there would crash
    shape = (num_kv_heads, num_blocks, block_size, head_dim)
    keys, values = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    for seq, (seq_len, count) in enumerate(zip(seq_lens, counts, strict=True)):
        for index in range(count):
            block = free.pop()
            tables[seq, index] = block
            used = min(block_size, seq_len - index * block_size)
            keys[:, block, :used] = torch.randn(num_kv_heads, used, head_dim, generator=generator)
            values[:, block, :used] = torch.randn(num_kv_heads, used, head_dim, generator=generator)
    query = torch.randn(sum(query_lens), num_kv_heads * group, head_dim, generator=generator)
    starts = [sum(query_lens[:index]) for index in range(len(query_lens) + 1)]
    return PagedCase(
        query=query.to(device, dtype),
        keys=keys.to(device, dtype),
        values=values.to(device, dtype),
        block_tables=tables.to(device),
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32, device=device),
        cu_seqlens_q=torch.tensor(starts, dtype=torch.int32, device=device),
        scale=head_dim**-0.5,
    )
