"""Residual + RMSNorm beside its twin, at the hidden sizes of Qwen2.5-0.5B, Qwen2.5-7B and Qwen3-8B.

python benchmarks/kernels/bench_rms_norm.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import reference, rms_norm  # only where there is a GPU

    for size in (896, 3584, 4096):
        weight = torch.randn(size, device=device, dtype=torch.bfloat16)
        for num_tokens in (1, 256, 8192):
            x, residual = torch.randn(2, num_tokens, size, device=device, dtype=torch.bfloat16)
            arguments = (x, residual, weight, 1e-6)
            yield BenchCase(
                name=f"tokens={num_tokens} size={size}",
                providers={
                    "twin": lambda arguments=arguments: reference.add_rms_norm(*arguments),
                    "triton": lambda arguments=arguments: rms_norm.add_rms_norm(*arguments),
                },
                moved_bytes=4 * num_tokens * size * x.element_size(),
            )


if __name__ == "__main__":
    main("rms_norm", cases)
