"""Residual + LayerNorm beside its twin, at the hidden sizes of all-MiniLM-L6-v2 and bge-m3.

python benchmarks/kernels/bench_layer_norm.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import layer_norm, reference  # only where there is a GPU

    for size in (384, 1024):
        weight, bias = torch.randn(2, size, device=device, dtype=torch.bfloat16)
        for num_tokens in (16, 512, 16384):
            x, residual = torch.randn(2, num_tokens, size, device=device, dtype=torch.bfloat16)
            arguments = (x, residual, weight, bias, 1e-12)
            yield BenchCase(
                name=f"tokens={num_tokens} size={size}",
                providers={
                    "twin": lambda arguments=arguments: reference.layer_norm(*arguments),
                    "triton": lambda arguments=arguments: layer_norm.layer_norm(*arguments),
                },
                moved_bytes=3 * num_tokens * size * x.element_size(),
            )


if __name__ == "__main__":
    main("layer_norm", cases)
