"""The plain-torch twin of every kernel: what a fast kernel must agree with, and what runs where there is none.

Formulas only: no device choice, no weights, no shapes of a particular model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x * rsqrt(mean(x²) + eps) * weight over the last dimension, in fp32 until the product with the weight."""
    x32 = x.to(torch.float32)
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return weight * (x32 * scale).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual)."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def layer_norm(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(t - mean(t)) / sqrt(var(t) + eps) * weight + bias over the last dimension, t = x + residual."""
    x = x if residual is None else x + residual
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for ``gate_up`` [..., 2 * size] → [..., size]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def store_kv(cache: Tensor, values: Tensor, slot_mapping: Tensor) -> None:
    """Write ``values`` [num_tokens, num_kv_heads, head_dim] at ``slot_mapping`` [num_tokens] (block * block_size + i).

    ``cache``: [num_kv_heads, num_blocks, block_size, head_dim].
    """
    flat = cache.flatten(1, 2)  # [num_kv_heads, num_slots, head_dim], a view
    flat.index_copy_(1, slot_mapping, values.transpose(0, 1))


def gather_kv(cache: Tensor, block_tables: Tensor) -> Tensor:
    """The tokens of ``block_tables`` [n, num_blocks] → [n, num_kv_heads, num_blocks * block_size, head_dim]."""
    n, num_blocks = block_tables.shape
    heads, _, block_size, head_dim = cache.shape
    blocks = cache.index_select(1, block_tables.reshape(-1))  # [heads, n * num_blocks, block_size, head_dim]
    return blocks.view(heads, n, num_blocks * block_size, head_dim).transpose(0, 1)
