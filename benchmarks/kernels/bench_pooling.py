"""Pooling of packed sequences beside its twin, at the size of bge-m3.

python benchmarks/kernels/bench_pooling.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import pooling, reference_pooling  # only where there is a GPU

    size = 1024
    for num_seqs, length in ((2, 64), (32, 512), (512, 32), (1, 8192)):
        hidden = torch.randn(num_seqs * length, size, device=device, dtype=torch.bfloat16)
        bounds = torch.arange(num_seqs + 1, device=device, dtype=torch.int32) * length
        yield BenchCase(
            name=f"mean seqs={num_seqs} tokens={length} size={size}",
            providers={
                "twin": lambda hidden=hidden, bounds=bounds: reference_pooling.pool_tokens(hidden, bounds, "mean"),
                "triton": lambda hidden=hidden, bounds=bounds: pooling.pool_tokens(hidden, bounds, "mean"),
            },
            moved_bytes=hidden.numel() * 2 + num_seqs * size * 4,
        )


if __name__ == "__main__":
    main("pooling", cases)
