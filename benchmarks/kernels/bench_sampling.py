"""Sampling beside its sorts: greedy, plain, and with the filters that chat models ask for; Qwen's vocabulary.

python benchmarks/kernels/bench_sampling.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main
from torch import Tensor

VOCAB_SIZE = 151936
PARAMS = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.7},
    "top_k=20 top_p=0.8": {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    "top_p=0.95": {"temperature": 1.0, "top_p": 0.95},
    "top_p=0.95 flat": {"temperature": 5.0, "top_p": 0.95},
}


def sorted_draw(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """What most samplers do: sort, cut, draw by exponential noise. [num_rows] token ids."""
    values, ids = (logits.float() / max(temperature, 1e-5)).sort(dim=-1, descending=True)
    probs = values.softmax(dim=-1)
    if top_k:
        probs[:, top_k:] = 0.0
    probs[(probs.cumsum(dim=-1) - probs) > top_p * probs.sum(dim=-1, keepdim=True)] = 0.0
    place = (probs / torch.empty_like(probs).exponential_(1.0)).argmax(dim=-1, keepdim=True)
    return ids.gather(1, place)


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import sampling
    from carrel.kernels import sampling_rows as columns
    from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode, SamplingRows

    table = torch.zeros(0, 0, dtype=torch.int16, device=device)
    for num_rows in (1, 64, 256):
        logits = torch.randn(num_rows, VOCAB_SIZE, device=device, dtype=torch.bfloat16) * 3
        buffers = SamplingBuffers.empty(num_rows, VOCAB_SIZE, device)
        for name, params in PARAMS.items():
            temperature, top_k, top_p = params["temperature"], int(params.get("top_k", 0)), params.get("top_p", 1.0)
            rows = SamplingRows.empty(num_rows, device)
            rows.floats[:, columns.TEMPERATURE] = temperature
            rows.floats[:, columns.TOP_P] = top_p
            rows.ints[:, columns.TOP_K] = top_k
            mode = SamplingMode.DRAW if temperature else SamplingMode.GREEDY
            mode |= SamplingMode.FILTERS if top_k or top_p < 1.0 else SamplingMode.GREEDY
            arguments = (logits, temperature, top_k, top_p)
            yield BenchCase(
                name=f"rows={num_rows} {name}",
                providers={
                    "twin": (lambda a=arguments: sorted_draw(*a)) if temperature else (lambda x=logits: x.argmax(-1)),
                    "triton": lambda a=(logits, rows, table, buffers, mode): sampling.sample_tokens(*a),
                },
                moved_bytes=logits.numel() * logits.element_size(),
                tolerance=None,  # the kernel writes into its buffers
            )


if __name__ == "__main__":
    main("sampling", cases)
