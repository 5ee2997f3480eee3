"""Check cases of what quantised weights need: products, the way back to the dtype, and activations in fp8.

The sizes are those of Qwen3-8B's and Qwen2.5's layers.
"""

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


def dequantize(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels import dequantize as kernels

    for num_inputs, num_outputs in SIZES[wanted]:
        weight = (torch.randn(num_outputs, num_inputs, device=device) * num_inputs**-0.5).to(dtype)
        int8, int4 = reference_gemm.quantize_int8(weight), reference_gemm.quantize_int4(weight, GROUP)
        yield CheckCase(
            name=f"int8 {num_inputs} -> {num_outputs}",
            kernel=outputs_of(kernels.dequantize_int8, int8, dtype),
            twin=outputs_of(reference_gemm.dequantize_int8, int8),
            dtype=dtype,
            moved_bytes=(1.0 + dtype.itemsize) * weight.numel(),
        )
        yield CheckCase(
            name=f"int4 {num_inputs} -> {num_outputs}",
            kernel=outputs_of(kernels.dequantize_int4, int4, dtype),
            twin=outputs_of(reference_gemm.dequantize_int4, int4),
            dtype=dtype,
            moved_bytes=(0.5 + dtype.itemsize) * weight.numel(),
        )


def quantize_rows(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels import quantize_rows as kernels

    plans: dict[CaseSet, tuple[tuple[int, int], ...]] = {
        "tiny": ((3, 48),),
        "full": ((1, 4096), (77, 896), (512, 18_944)),
        "timed": ((8192, 4096),),
    }
    for tokens, size in plans[wanted]:
        x = torch.randn(tokens, size, device=device).to(dtype)
        if wanted == "tiny":  # fp8 numbers already: Triton's interpreter rounds to fp8 wrongly
            x = x.to(torch.float8_e4m3fn).to(dtype)
            x[:, 0] = 448.0
        yield CheckCase(
            name=f"fp8, {tokens} tokens of {size}",
            kernel=outputs_of(kernels.quantize_rows, x),
            twin=outputs_of(reference_gemm.quantize_rows, x, wide=True),
            dtype=torch.bfloat16,  # a tie of fp8 may be rounded either way
            moved_bytes=1.5 * x.nbytes,
        )
