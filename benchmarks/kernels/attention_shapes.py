"""Shapes and inputs of the attention benchmarks: heads of the models that are measured, caches with shuffled blocks."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_SIZE = 16
HEADS = {  # query heads, key heads, head_dim
    "Qwen2.5-0.5B": (14, 2, 64),
    "Qwen2.5-7B": (28, 4, 128),
    "Qwen3-8B": (32, 8, 128),
}


def paged_cache(
    seq_lens: list[int], num_kv_heads: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(keys, values, block_tables, seq_lens) in bf16."""
    counts = [-(-length // BLOCK_SIZE) for length in seq_lens]
    blocks = torch.randperm(sum(counts), device=device, dtype=torch.int32)
    tables = torch.zeros(len(seq_lens), max(counts), dtype=torch.int32, device=device)
    for row, part in zip(tables, blocks.split(counts), strict=True):
        row[: len(part)] = part
    shape = (num_kv_heads, sum(counts), BLOCK_SIZE, head_dim)
    keys, values = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2))
    return keys, values, tables, torch.tensor(seq_lens, dtype=torch.int32, device=device)


def starts(lengths: list[int], device: torch.device) -> Tensor:
    """cu_seqlens of sequences that lie end to end."""
    ends = torch.tensor([0, *lengths], dtype=torch.int32, device=device)
    return ends.cumsum(0, dtype=torch.int32)
