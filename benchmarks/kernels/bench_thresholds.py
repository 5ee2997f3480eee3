"""The thresholds alone, beside a sort of the logits: peaked, flat (the whole row is searched) and a large top_k.

python benchmarks/kernels/bench_thresholds.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main

VOCAB_SIZE = 151936


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import sampling_rows as columns
    from carrel.kernels.sampling import sample_tokens
    from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode, SamplingRows
    from carrel.kernels.thresholds import find_thresholds

    table = torch.zeros(0, 0, dtype=torch.int16, device=device)
    for num_rows in (1, 256):
        for name, scale, top_k, top_p in (
            ("peaked", 6.0, 0, 0.95),
            ("top_k=20", 3.0, 20, 0.8),
            ("flat", 0.5, 0, 0.95),
            ("top_k=5000", 3.0, 5000, 1.0),
        ):
            logits = torch.randn(num_rows, VOCAB_SIZE, device=device, dtype=torch.bfloat16) * scale
            rows, buffers = SamplingRows.empty(num_rows, device), SamplingBuffers.empty(num_rows, VOCAB_SIZE, device)
            rows.floats[:, columns.TEMPERATURE] = 1.0
            rows.floats[:, columns.TOP_P] = top_p
            rows.ints[:, columns.TOP_K] = top_k
            sample_tokens(logits, rows, table, buffers, SamplingMode.DRAW | SamplingMode.FILTERS)  # maxima and sums
            arguments = (logits, rows, table, buffers)
            yield BenchCase(
                name=f"rows={num_rows} {name}",
                providers={
                    "twin": lambda x=logits: x.sort(dim=-1, descending=True).values.float().exp().cumsum(-1),
                    "triton": lambda a=arguments: find_thresholds(*a, has_table=False),
                },
                moved_bytes=logits.numel() * logits.element_size(),
                tolerance=None,  # the kernel writes into its buffers
            )


if __name__ == "__main__":
    main("thresholds", cases)
