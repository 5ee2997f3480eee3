"""The token bitmask beside torch's: bits and logits read, what is out written.

python benchmarks/kernels/bench_token_bitmask.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from _frame import BenchCase, main
from torch import Tensor

VOCAB_SIZE = 151936


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import reference_sampling, token_bitmask

    def provider(mask_tokens: Callable[[Tensor, Tensor, Tensor], None], *arguments: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            mask_tokens(*arguments)
            return torch.isneginf(arguments[0])

        return run

    for num_rows in (1, 64):
        logits = torch.randn(num_rows, VOCAB_SIZE, device=device)
        masks = torch.randint(-(2**31), 2**31, (num_rows, VOCAB_SIZE // 32), device=device).to(torch.int32)
        rows = torch.arange(num_rows, device=device)
        yield BenchCase(
            name=f"rows={num_rows}",
            providers={
                "twin": provider(reference_sampling.mask_tokens, logits.clone(), masks, rows),
                "triton": provider(token_bitmask.mask_tokens, logits.clone(), masks, rows),
            },
            moved_bytes=logits.numel() * (4 + 2) + masks.numel() * 4,
        )


if __name__ == "__main__":
    main("token_bitmask", cases)
