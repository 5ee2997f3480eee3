"""Packed sequences over themselves beside their twin and torch's own kernel, at encoders and a decoder that embeds.

python benchmarks/kernels/bench_varlen_attention.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from _frame import BenchCase, main
from attention_shapes import starts
from torch import Tensor

MODELS = {  # query heads, key heads, head_dim, causal
    "all-MiniLM-L6-v2": (12, 12, 32, False),
    "bge-m3": (16, 16, 64, False),
    "Qwen3-Embedding-0.6B": (16, 8, 128, True),
    "Qwen2.5-0.5B": (14, 2, 64, True),
}


def cases(device: torch.device) -> Iterator[BenchCase]:
    for name, shape in MODELS.items():
        for label, lengths in {
            "4 x 32": [32] * 4,
            "128 x 512": [512] * 128,
            "1024 x 64": [64] * 1024,
            "4 x 8192": [8192] * 4,
            "mixed": [16, 64, 256, 512, 1024, 2048] * 8,
        }.items():
            yield _case(f"{name} {label}", shape, lengths, device)


def _case(name: str, shape: tuple[int, int, int, bool], lengths: list[int], device: torch.device) -> BenchCase:
    from carrel.kernels import reference_attention, varlen_attention  # only where there is a GPU
    from carrel.layers.torch_varlen import torch_varlen

    num_heads, num_kv_heads, head_dim, causal = shape
    width = num_heads + 2 * num_kv_heads
    rows = torch.randn(sum(lengths), width, head_dim, device=device, dtype=torch.bfloat16)
    parts = torch.split(rows, [num_heads, num_kv_heads, num_kv_heads], dim=1)
    cu_seqlens, longest = starts(lengths, device), max(lengths)
    options = {"max_seq_len": longest, "scale": head_dim**-0.5, "causal": causal}
    providers: dict[str, Callable[[], Tensor]] = {
        "twin": functools.partial(reference_attention.varlen_attention, *parts, cu_seqlens, **options),
        "triton": functools.partial(varlen_attention.varlen_attention, *parts, cu_seqlens, **options),
    }
    theirs = torch_varlen(device, lambda *_: rows)
    if theirs is not None and theirs.works(parts[0], parts[1], causal):
        query, key, value = parts
        providers["torch varlen_attn"] = functools.partial(theirs, query, key, value, cu_seqlens, longest, causal)
    squares = sum(length * (length + 1) // 2 if causal else length**2 for length in lengths)
    return BenchCase(
        name=name,
        providers=providers,
        moved_bytes=2 * sum(lengths) * head_dim * (width + num_heads),
        flops=4 * squares * num_heads * head_dim,
        tolerance=2e-2,
    )


if __name__ == "__main__":
    main("varlen_attention", cases)
