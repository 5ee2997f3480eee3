"""Plain-torch twin of ``rope_store``: head norms, rotary embedding and the store into the paged cache.

Formulas only: no device choice, no weights, no shapes of a particular model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carrel.kernels.reference import rms_norm, store_kv


def rope_store(
    qkv: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    *,
    num_heads: int,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 0.0,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    slot_mapping: Tensor | None = None,
) -> None:
    """As ``rope_store.rope_store``: changes ``qkv`` in place, and the caches at slots that are not below 0."""
    head_dim = cos_sin.shape[1]
    heads = qkv.unflatten(-1, (-1, head_dim))  # [num_tokens, rows, head_dim], a view
    num_kv_heads = (heads.shape[1] - num_heads) // 2
    query, key, value = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)  # [num_tokens, 1, head_dim / 2] each
    for part, weight in ((query, q_weight), (key, k_weight)):
        part.copy_(rotate(part if weight is None else rms_norm(part, weight, eps), cos, sin))
    if keys is not None and values is not None and slot_mapping is not None:
        stored = slot_mapping >= 0
        store_kv(keys, key[stored], slot_mapping[stored])
        store_kv(values, value[stored], slot_mapping[stored])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE of ``x`` [num_tokens, heads, head_dim] in fp32; dimension i is paired with i + head_dim / 2."""
    low, high = x.to(torch.float32).chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
