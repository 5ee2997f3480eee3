"""Log probability and rank of the sampled token beside a log softmax of the whole row; Qwen's vocabulary.

python benchmarks/kernels/bench_logprobs.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main

VOCAB_SIZE = 151936


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import logprobs, reference_sampling

    for num_rows in (1, 64, 256):
        logits = torch.randn(num_rows, VOCAB_SIZE, device=device, dtype=torch.bfloat16)
        rows = torch.arange(num_rows, device=device)
        arguments = (logits, rows * 11, rows)
        yield BenchCase(
            name=f"rows={num_rows}",
            providers={
                "twin": lambda a=arguments: reference_sampling.token_logprobs(*a),
                "triton": lambda a=arguments: logprobs.token_logprobs(*a),
            },
            moved_bytes=logits.numel() * logits.element_size(),
        )


if __name__ == "__main__":
    main("logprobs", cases)
