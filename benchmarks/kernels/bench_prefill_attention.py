"""Prompts and chunks over the paged cache beside their twin, and torch's attention over keys that lie in one piece.

python benchmarks/kernels/bench_prefill_attention.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from _frame import BenchCase, main
from attention_shapes import HEADS, paged_cache, starts
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def cases(device: torch.device) -> Iterator[BenchCase]:
    for name, heads in HEADS.items():
        for count, chunk, context in (
            (1, 32, 96),
            (1, 2048, 2048),
            (1, 8192, 8192),
            (8, 1024, 1024),
            (1, 2048, 16384),
            (64, 8, 1024),
        ):
            yield _case(f"{name} {count} x {chunk} of {context}", count, chunk, context, heads, device)


def _case(
    name: str, count: int, chunk: int, context: int, heads: tuple[int, int, int], device: torch.device
) -> BenchCase:
    from carrel.kernels import prefill_attention, reference_attention  # only where there is a GPU

    num_heads, num_kv_heads, head_dim = heads
    cache = paged_cache([context] * count, num_kv_heads, head_dim, device)
    query = torch.randn(count * chunk, num_heads, head_dim, device=device, dtype=torch.bfloat16)
    arguments = (query, *cache, starts([chunk] * count, device))
    scale = head_dim**-0.5
    providers: dict[str, Callable[[], Tensor]] = {
        "twin": functools.partial(reference_attention.prefill_attention, *arguments, scale=scale),
        "triton": functools.partial(prefill_attention.prefill_attention, *arguments, scale=scale, max_query_len=chunk),
    }
    if chunk == context:
        dense = query.view(count, chunk, num_heads, head_dim).transpose(1, 2)
        key = torch.randn(count, num_kv_heads, chunk, head_dim, device=device, dtype=torch.bfloat16)
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            providers[f"torch {backend.name.lower()}"] = functools.partial(_torch, dense, key, backend)
    seen = chunk * (context - chunk) + chunk * (chunk + 1) / 2  # keys, over all queries of a sequence
    return BenchCase(
        name=name,
        providers=providers,
        moved_bytes=2 * count * head_dim * (2 * chunk * num_heads + 2 * context * num_kv_heads),
        flops=int(4 * count * seen * num_heads * head_dim),
        tolerance=None,  # torch's numbers are others
    )


def _torch(dense: Tensor, key: Tensor, backend: SDPBackend) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(dense, key, key, is_causal=True, enable_gqa=True)


if __name__ == "__main__":
    main("prefill_attention", cases)
