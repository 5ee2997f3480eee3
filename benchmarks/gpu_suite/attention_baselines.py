"""torch's own attention on the shapes of our kernels' timed cases: what a kernel of ours has to beat to be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from carrel.layers.torch_varlen import torch_varlen
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_suite.section import Context
from gpu_suite.timing import median_seconds

# name → sequences, length, query heads, key heads, head_dim, causal
SHAPES: dict[str, tuple[int, int, int, int, int, bool]] = {
    "Qwen3-8B 8 prompts of 1024": (8, 1024, 32, 8, 128, True),
    "Qwen3-8B 1 prompts of 8192": (1, 8192, 32, 8, 128, True),
    "Qwen2.5-0.5B 8 prompts of 1024": (8, 1024, 14, 2, 64, True),
    "bge-m3 128 inputs of 512": (128, 512, 16, 16, 64, False),
}
TINY_SHAPES: dict[str, tuple[int, int, int, int, int, bool]] = {
    "tiny prompts": (2, 16, 4, 2, 16, True),
    "tiny inputs": (3, 8, 2, 2, 16, False),
}


def measure(context: Context) -> None:
    device = context.options.device
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    with torch.inference_mode():
        for name, shape in (TINY_SHAPES if context.options.tiny else SHAPES).items():
            count, length, heads, kv_heads, dim, causal = shape
            query = torch.randn(count * length, heads, dim, device=device).to(dtype)
            key, value = (torch.randn(count * length, kv_heads, dim, device=device).to(dtype) for _ in range(2))
            flops = (2.0 if causal else 4.0) * count * length**2 * heads * dim
            for label, run in _implementations(query, key, value, count, length, causal).items():
                _time(context, f"{label}: {name}", run, flops)


def _implementations(
    query: Tensor, key: Tensor, value: Tensor, count: int, length: int, causal: bool
) -> dict[str, Callable[[], Any]]:
    """By name; what this torch or device does not have raises when it is called."""

    def dense(x: Tensor) -> Tensor:
        return x.view(count, length, x.shape[1], x.shape[2]).transpose(1, 2)

    def sdpa(backend: SDPBackend) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(
                    dense(query), dense(key), dense(value), is_causal=causal, enable_gqa=query.shape[1] != key.shape[1]
                )

        return run

    group = query.shape[1] // key.shape[1]
    starts = torch.arange(0, (count + 1) * length, length, dtype=torch.int32, device=query.device)
    keys, values = (x.repeat_interleave(group, dim=1) for x in (key, value))

    def varlen() -> Tensor:
        attend = torch_varlen(query.device, ours=lambda *arguments: arguments[0])
        assert attend is not None, "this torch has no varlen_attn"
        return attend(query, keys, values, starts, length, causal)

    return {
        "torch flash": sdpa(SDPBackend.FLASH_ATTENTION),
        "torch cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
        "torch varlen, keys repeated": varlen,
    }


def _time(context: Context, label: str, run: Callable[[], Any], flops: float) -> None:
    try:
        seconds = median_seconds(run, context.options.device, repeats=10)
    except Exception as error:  # not every torch has every kernel, and each says so in another way
        context.note(f"{label} not measured: {str(error).splitlines()[0][:150]}")
        return
    context.row(label, flops / seconds / 1e12, "TFLOP/s", flops_per_unit=1e12)
