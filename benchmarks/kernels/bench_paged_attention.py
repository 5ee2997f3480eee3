"""Decode attention over the paged cache, beside its twin and torch's attention over keys that lie in one piece.

python benchmarks/kernels/bench_paged_attention.py [--out benchmarks/results/kernels.jsonl]

``auto`` takes the splits that the engine would, ``splits=n`` others, to see whether the choice is right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from _frame import BenchCase, main
from attention_shapes import HEADS, paged_cache

MAX_MODEL_LEN = 32768  # decides the splits, as in the engine


def cases(device: torch.device) -> Iterator[BenchCase]:
    for name, heads in HEADS.items():
        for batch, context in ((1, 512), (1, 8192), (1, 32768), (16, 1024), (16, 8192), (64, 1024), (256, 640)):
            yield _case(f"{name} batch={batch} context={context}", batch, context, heads, device)


def _case(name: str, batch: int, context: int, heads: tuple[int, int, int], device: torch.device) -> BenchCase:
    from carrel.kernels import paged_attention, reference_attention  # only where there is a GPU
    from carrel.kernels.weight_only_gemm import num_sms

    num_heads, num_kv_heads, head_dim = heads
    cache = paged_cache([context] * batch, num_kv_heads, head_dim, device)
    query = torch.randn(batch, num_heads, head_dim, device=device, dtype=torch.bfloat16)
    auto = paged_attention.choose_num_splits(batch, num_kv_heads, MAX_MODEL_LEN, num_sms(device))
    scale = head_dim**-0.5
    run = functools.partial(paged_attention.paged_attention, query, *cache, scale=scale)
    others = {f"splits={n}": functools.partial(run, num_splits=n) for n in (1, 4, 16, 64) if n != auto}
    key = torch.randn(batch, num_kv_heads, context, head_dim, device=device, dtype=torch.bfloat16)
    folded = query.view(batch, num_kv_heads, -1, head_dim)
    return BenchCase(
        name=name,
        providers={
            "twin": functools.partial(reference_attention.paged_attention, query, *cache, scale=scale),
            "triton auto": functools.partial(run, num_splits=auto),
            **others,
            "torch, no pages": functools.partial(F.scaled_dot_product_attention, folded, key, key),
        },
        moved_bytes=4 * batch * context * num_kv_heads * head_dim,
        flops=4 * batch * context * num_heads * head_dim,
        tolerance=None,  # torch's numbers are others
    )


if __name__ == "__main__":
    main("paged_attention", cases)
