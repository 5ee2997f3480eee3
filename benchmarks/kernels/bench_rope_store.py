"""Head norms + RoPE + KV store beside their twin, with the heads of Qwen2.5-0.5B, Qwen2.5-7B and Qwen3-8B.

python benchmarks/kernels/bench_rope_store.py [--out benchmarks/results/kernels.jsonl]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from _frame import BenchCase, main
from torch import Tensor

MAX_POSITIONS, BLOCK_SIZE = 32768, 16


def cases(device: torch.device) -> Iterator[BenchCase]:
    from carrel.kernels import reference_rope, rope_store  # only where there is a GPU

    for num_heads, num_kv_heads, head_dim, has_norm in ((14, 2, 64, False), (28, 4, 128, False), (32, 8, 128, True)):
        for num_tokens in (1, 256, 8192):
            width = (num_heads + 2 * num_kv_heads) * head_dim
            inputs = _inputs(num_tokens, width, num_kv_heads, head_dim, has_norm, device)
            yield BenchCase(
                name=f"tokens={num_tokens} heads={num_heads}/{num_kv_heads}x{head_dim}{' norm' if has_norm else ''}",
                providers={
                    "twin": _provider(reference_rope.rope_store, num_heads, inputs),
                    "triton": _provider(rope_store.rope_store, num_heads, inputs),
                },
                moved_bytes=2 * num_tokens * (2 * width + num_kv_heads * head_dim),  # read all, write q, k twice, v
            )


def _inputs(
    num_tokens: int, width: int, num_kv_heads: int, head_dim: int, has_norm: bool, device: torch.device
) -> dict[str, Any]:
    angles = torch.rand(MAX_POSITIONS, head_dim // 2, device=device) * 6
    weights = 1 + 0.1 * torch.randn(2, head_dim, device=device, dtype=torch.bfloat16)
    num_blocks = -(-num_tokens // BLOCK_SIZE) + 1
    return {
        "qkv": torch.randn(num_tokens, width, device=device, dtype=torch.bfloat16),
        "cos_sin": torch.cat((angles.cos(), angles.sin()), dim=-1),
        "positions": torch.randint(MAX_POSITIONS, (num_tokens,), device=device),
        "q_weight": weights[0] if has_norm else None,
        "k_weight": weights[1] if has_norm else None,
        "cache": torch.zeros(num_kv_heads, num_blocks, BLOCK_SIZE, head_dim, device=device, dtype=torch.bfloat16),
        "slot_mapping": torch.randperm(num_blocks * BLOCK_SIZE, device=device)[:num_tokens],
    }


def _provider(
    function: Callable[..., None], num_heads: int, inputs: dict[str, Any]
) -> Callable[[], tuple[Tensor, ...]]:
    """Tensors of its own, which the function changes in place: only the first run of each provider is compared."""
    arguments = {name: value for name, value in inputs.items() if name != "cache"}
    arguments |= {"qkv": inputs["qkv"].clone(), "keys": inputs["cache"].clone(), "values": inputs["cache"].clone()}

    def run() -> tuple[Tensor, ...]:
        function(**arguments, num_heads=num_heads, eps=1e-6)
        return arguments["qkv"], arguments["keys"], arguments["values"]

    return run


if __name__ == "__main__":
    main("rope_store", cases)
