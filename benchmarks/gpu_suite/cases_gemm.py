"""Check cases of the products with quantised weights, at the sizes of Qwen3-8B's and Qwen2.5's layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from carrel.kernels import reference_gemm

from gpu_suite.check_case import CaseSet, CheckCase, outputs_of

GROUP = 128  # inputs that share a scale, int4
SIZES: dict[CaseSet, tuple[tuple[int, int], ...]] = {  # inputs, outputs
    "tiny": ((256, 48),),
    "full": ((4096, 12_288), (12_288, 4096), (3584, 512)),
    "timed": ((4096, 24_576),),
}
TOKENS: dict[CaseSet, tuple[int, ...]] = {"tiny": (3,), "full": (1, 3, 16, 64), "timed": (1, 16, 64)}


def weight_only_gemm(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels import weight_only_gemm as kernels

    for num_inputs, num_outputs in SIZES[wanted]:
        weight = (torch.randn(num_outputs, num_inputs, device=device) * num_inputs**-0.5).to(dtype)
        bias = torch.randn(num_outputs, device=device).to(dtype)
        int8, int4 = reference_gemm.quantize_int8(weight), reference_gemm.quantize_int4(weight, GROUP)
        plans = (
            ("int8", kernels.int8_linear, reference_gemm.int8_linear, int8, 1.0),
            ("int4", kernels.int4_linear, reference_gemm.int4_linear, int4, 0.5),
        )
        for num_tokens in TOKENS[wanted]:
            x = torch.randn(num_tokens, num_inputs, device=device).to(dtype)
            for name, kernel, twin, quantised, bytes_each in plans:
                yield CheckCase(
                    name=f"{name} {num_tokens}x{num_inputs} -> {num_outputs}",
                    kernel=outputs_of(kernel, x, quantised, bias),
                    twin=outputs_of(twin, x.float(), quantised, bias.float()),
                    dtype=dtype,
                    moved_bytes=bytes_each * num_inputs * num_outputs,
                )
