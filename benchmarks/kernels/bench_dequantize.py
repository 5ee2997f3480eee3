"""Quantised weights back to bf16 beside the twin, at layers of Qwen2.5-0.5B and 7B.

python benchmarks/kernels/bench_dequantize.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _frame import BenchCase, main


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import dequantize, reference_gemm  # only where there is a GPU

    for num_inputs, num_outputs in ((896, 128), (896, 9728), (3584, 18944)):
        weight = torch.randn(num_outputs, num_inputs, device=device, dtype=torch.bfloat16)
        eight, four = reference_gemm.quantize_int8(weight), reference_gemm.quantize_int4(weight, 128)
        for bits, twin, kernel, quantised in (
            (8, reference_gemm.dequantize_int8, dequantize.dequantize_int8, eight),
            (4, reference_gemm.dequantize_int4, dequantize.dequantize_int4, four),
        ):
            yield BenchCase(
                name=f"int{bits} {num_inputs}x{num_outputs}",
                providers={
                    "twin": lambda twin=twin, quantised=quantised: twin(quantised, torch.bfloat16),
                    "triton": lambda kernel=kernel, quantised=quantised: kernel(quantised, torch.bfloat16),
                },
                moved_bytes=weight.numel() * 2 + sum(part.numel() * part.element_size() for part in quantised),
            )


if __name__ == "__main__":
    main("dequantize", cases)
