"""Activations to fp8 beside the twin, at the hidden and inner sizes of Qwen2.5-7B.

python benchmarks/kernels/bench_quantize_rows.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import quantize_rows, reference_gemm  # only where there is a GPU

    for size in (3584, 18944):
        for num_tokens in (1, 256, 8192):
            x = torch.randn(num_tokens, size, device=device, dtype=torch.bfloat16)
            yield BenchCase(
                name=f"tokens={num_tokens} size={size}",
                providers={
                    "twin": lambda x=x: reference_gemm.quantize_rows(x),
                    "triton": lambda x=x: quantize_rows.quantize_rows(x),
                },
                moved_bytes=3 * x.numel() + 4 * num_tokens,
                tolerance=7e-2,  # a tie that rounds the other way is one step of fp8
            )


if __name__ == "__main__":
    main("quantize_rows", cases)
