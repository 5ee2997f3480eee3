"""SiLU·mul beside its twin, at the sizes of Qwen2.5-0.5B, Qwen3-8B and Qwen2.5-7B.

python benchmarks/kernels/bench_silu_mul.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import reference, silu_mul  # only where there is a GPU

    for size in (4864, 12288, 18944):
        for num_tokens in (1, 256, 8192):
            x = torch.randn(num_tokens, 2 * size, device=device, dtype=torch.bfloat16)
            yield BenchCase(
                name=f"tokens={num_tokens} size={size}",
                providers={
                    "twin": lambda x=x: reference.silu_and_mul(x),
                    "triton": lambda x=x: silu_mul.silu_and_mul(x),
                },
                moved_bytes=3 * num_tokens * size * x.element_size(),
            )


if __name__ == "__main__":
    main("silu_mul", cases)
