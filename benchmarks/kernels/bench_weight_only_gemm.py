"""Products with int8 and int4 weights beside a bf16 GEMM of the same shape, at layers of Qwen2.5-0.5B, 7B and Qwen3-8B.

python benchmarks/kernels/bench_weight_only_gemm.py [--out benchmarks/results/kernels.jsonl]

The bf16 product reads two or four times the bytes; ``gb_s`` counts those of the quantised weights for all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from _frame import BenchCase, main


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import reference_gemm, weight_only_gemm  # only where there is a GPU

    for num_inputs, num_outputs in ((896, 896), (896, 9728), (3584, 37888), (18944, 3584), (4096, 4096)):
        weight = torch.randn(num_outputs, num_inputs, device=device, dtype=torch.bfloat16) * 0.02
        eight, four = reference_gemm.quantize_int8(weight), reference_gemm.quantize_int4(weight, 128)
        plain = {8: reference_gemm.dequantize_int8(eight), 4: reference_gemm.dequantize_int4(four)}
        for num_tokens in (1, 8, 16, 32, 64, 128, 256):
            x = torch.randn(num_tokens, num_inputs, device=device, dtype=torch.bfloat16)
            for bits, twin, kernel, quantised in (
                (8, reference_gemm.int8_linear, weight_only_gemm.int8_linear, eight),
                (4, reference_gemm.int4_linear, weight_only_gemm.int4_linear, four),
            ):
                dense = plain[bits].to(torch.bfloat16)
                yield BenchCase(
                    name=f"int{bits} tokens={num_tokens} {num_inputs}x{num_outputs}",
                    providers={
                        "twin": lambda x=x, twin=twin, quantised=quantised: twin(x, quantised),
                        "bf16 gemm": lambda x=x, dense=dense: F.linear(x, dense),
                        "triton": lambda x=x, kernel=kernel, quantised=quantised: kernel(x, quantised),
                    },
                    moved_bytes=sum(part.numel() * part.element_size() for part in quantised)
                    + 2 * num_tokens * (num_inputs + num_outputs),
                    flops=2 * num_tokens * num_inputs * num_outputs,
                )


if __name__ == "__main__":
    main("weight_only_gemm", cases)
