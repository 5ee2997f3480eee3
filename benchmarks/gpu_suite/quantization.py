"""Quantised weights: each format's product against the dense one in fp32, and what it brings in speed."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from carrel.config import Quantization
from carrel.errors import InvalidParamsError
from carrel.layers.linear import Linear
from carrel.layers.ops import ops_for
from carrel.layers.quantized_linear import check_quantization
from carrel.layers.weight_formats import set_parameter

from gpu_suite.chat import TOKENS_A_STEP, ChatBench
from gpu_suite.engine_run import opened
from gpu_suite.section import Context
from gpu_suite.shapes import Shape, shape_of
from gpu_suite.workload import TINY_CHAT, ChatSizes

NAME = "Qwen3-8B"
# Norm of the error over the norm of the result, for normal weights: about 1.5 times what the rounding itself makes.
ALLOWED: dict[Quantization, float] = {"int8": 0.015, "fp8": 0.06, "int4": 0.15}
# Bytes of a layer's weight and of one of the output head, scales included.
WEIGHT_BYTES: dict[Quantization, tuple[float, float]] = {"fp8": (1.0, 2.0), "int8": (1.0, 1.0), "int4": (0.52, 1.0)}


def _possible(context: Context) -> list[Quantization]:
    found: list[Quantization] = []
    for quantization in WEIGHT_BYTES:
        try:
            check_quantization(quantization, context.options.device)
        except InvalidParamsError as error:
            context.note(str(error))
        else:
            found.append(quantization)
    return found


def check(context: Context) -> None:
    """Few tokens and many take different ways; the weights are random, the biases too."""
    device, tiny = context.options.device, context.options.tiny
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    for quantization in _possible(context):
        for num_inputs, num_outputs in ((64, 96),) if tiny else ((4096, 12_288), (896, 4864), (3584, 4608)):
            linear, dense = _linear(num_inputs, num_outputs, quantization, device, dtype)
            for num_tokens in (1, 3, 40) if tiny else (1, 16, 300):
                x = torch.randn(num_tokens, num_inputs, device=device).to(dtype)
                with torch.inference_mode():
                    got, expected = linear(x).float(), dense(x.float())
                error = float((got - expected).norm() / expected.norm())
                label = f"{quantization}, {num_tokens} tokens, {num_inputs} -> {num_outputs}"
                limit = ALLOWED[quantization]
                context.check(label, error <= limit, error=round(error, 4), allowed=limit)


def _linear(
    num_inputs: int, num_outputs: int, quantization: Quantization, device: str, dtype: torch.dtype
) -> tuple[Linear, torch.nn.Module]:
    """A quantised layer, and the dense one in fp32 that it was made of."""
    weight = (torch.randn(num_outputs, num_inputs, device=device) * num_inputs**-0.5).to(dtype)
    bias = torch.randn(num_outputs, device=device).to(dtype)
    linear = Linear(num_inputs, num_outputs, bias=True)
    linear.format = ops_for(device).weight_format(quantization)
    set_parameter(linear, "weight", weight)
    set_parameter(linear, "bias", bias)
    return linear, _Dense(weight.float(), bias.float())


class _Dense(torch.nn.Module):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self._weight, self._bias = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


def measure(context: Context) -> None:
    """Batch 1 and a large batch of one model in each format."""
    tiny = context.options.tiny
    sizes = TINY_CHAT if tiny else ChatSizes(repeats=2)
    for quantization in _possible(context):
        if context.remaining < 10.0:
            context.note(f"{quantization} not measured: no time left")
            continue
        dense = shape_of(NAME, tiny=tiny)
        shape: Shape = replace(dense, name=f"{NAME} {quantization}", weight_bytes=WEIGHT_BYTES[quantization])
        limits = {"max_num_seqs": sizes.batch, "max_num_batched_tokens": TOKENS_A_STEP}
        with opened(shape, context.options.device, quantization=quantization, **limits) as host:
            bench = ChatBench(context, host, shape, sizes)
            bench.single()
            bench.batched()
