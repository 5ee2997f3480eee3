"""Penalties beside torch's: one read of logits and token table, one write. Inside the sampler nothing is written.

python benchmarks/kernels/bench_penalties.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main

VOCAB_SIZE = 151936


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import penalties, reference_sampling
    from carrel.kernels import sampling_rows as columns
    from carrel.kernels.sampling_rows import SamplingRows

    for num_rows in (1, 64):
        logits = torch.randn(num_rows, VOCAB_SIZE, device=device, dtype=torch.bfloat16)
        table = torch.randint(0, 9, (num_rows, VOCAB_SIZE), dtype=torch.int16, device=device)
        rows = SamplingRows.empty(num_rows, device)
        rows.floats[:, columns.REPETITION] = 1.1
        rows.floats[:, columns.PRESENCE] = 0.5
        rows.ints[:, columns.SLOT] = torch.arange(num_rows, dtype=torch.int32, device=device)
        arguments = (logits, rows, table)
        yield BenchCase(
            name=f"rows={num_rows}",
            providers={
                "twin": lambda a=arguments: reference_sampling.penalised_logits(*a),
                "triton": lambda a=arguments: penalties.penalised_logits(*a),
            },
            moved_bytes=logits.numel() * (2 + 2 + 4),
        )


if __name__ == "__main__":
    main("penalties", cases)
