"""Attention over a packed batch. The seam where Triton kernels come in.

Knows the paged cache and grouped heads. Does not know rotary embedding, projections, or who the requests are. Keys and
values are stored before, with the rotation (``layers/ops.py``).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from carrel.kernels.reference import gather_kv, store_kv
from carrel.layers.attention_plan import AttentionPlan, WorkItem


class LayerCache:
    """Keys and values of one layer: two tensors [num_kv_heads, num_blocks, block_size, head_dim].

    The head comes first, so that gathering the blocks of a sequence gives each head one contiguous run of tokens.
    """

    def __init__(
        self,
        num_kv_heads: int,
        num_blocks: int,
        block_size: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_kv_heads, num_blocks, block_size, head_dim)
        self.keys = _zeros(shape, dtype, device)
        self.values = _zeros(shape, dtype, device)

    def store(self, key: Tensor, value: Tensor, slot_mapping: Tensor, fresh_blocks: Tensor | None) -> None:
        """Write [num_tokens, num_kv_heads, head_dim] at ``slot_mapping``, after clearing ``fresh_blocks``.

        The rest of a block that is not full is read and masked; what its last user left there must be finite, because
        0 · NaN is NaN.
        """
        for cache, values in ((self.keys, key), (self.values, value)):
            if fresh_blocks is not None:
                cache.index_fill_(1, fresh_blocks, 0.0)
            store_kv(cache, values, slot_mapping)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU pages of the system that cost nothing until they are written, which torch.zeros would touch."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)


class AttentionBackend(Protocol):
    """One implementation for each kind of device. ``cache`` already holds ``key`` and ``value``; rows may lie apart."""

    def forward(
        self,
        query: Tensor,  # [num_tokens, num_heads, head_dim]
        key: Tensor,  # [num_tokens, num_kv_heads, head_dim]
        value: Tensor,  # [num_tokens, num_kv_heads, head_dim]
        cache: LayerCache | None,  # None: an encoder, or pooling
        plan: AttentionPlan,
        window: int | None,
    ) -> Tensor:  # [num_tokens, num_heads * head_dim]
        ...


class TorchAttention:
    """Scaled dot product attention of torch, one call for each work item of the plan."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: LayerCache | None,
        plan: AttentionPlan,
        window: int | None,
    ) -> Tensor:
        items = plan.items(window)
        if len(items) == 1 and isinstance(items[0].rows, slice):  # the one item covers every row, in order
            return self._attend(items[0], query, key, value, cache).flatten(1)
        out = torch.empty_like(query)
        for item in items:
            out[item.rows] = self._attend(item, query, key, value, cache)
        return out.flatten(1)

    def _attend(self, item: WorkItem, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache | None) -> Tensor:
        """→ [num_seqs * query_len, num_heads, head_dim]"""
        n, length = item.num_seqs, item.query_len
        if item.block_tables is None:
            keys = _by_sequence(key[item.rows], n, length)  # [n, num_kv_heads, length, head_dim]
            values = _by_sequence(value[item.rows], n, length)
        else:
            assert cache is not None, "block tables come with a cache"
            keys = gather_kv(cache.keys, item.block_tables)  # [n, num_kv_heads, kv_len, head_dim]
            values = gather_kv(cache.values, item.block_tables)
        rows = query[item.rows]
        if length == 1:
            return _attend_folded(rows, keys, values, item.mask)
        rows = _by_sequence(rows, n, length)  # [n, num_heads, length, head_dim]
        out = F.scaled_dot_product_attention(
            rows, keys, values, item.mask, is_causal=item.is_causal, enable_gqa=rows.shape[1] != keys.shape[1]
        )
        return out.transpose(1, 2).flatten(0, 1)


def _by_sequence(rows: Tensor, n: int, length: int) -> Tensor:
    """[n * length, heads, head_dim] → [n, heads, length, head_dim], without a copy."""
    return rows.view(n, length, rows.shape[1], rows.shape[2]).transpose(1, 2)


def _attend_folded(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """One query a sequence: the query heads that share a key head become its rows, so that keys are read once."""
    n, num_heads, head_dim = query.shape
    num_kv_heads = keys.shape[1]
    folded = query.view(n, num_kv_heads, num_heads // num_kv_heads, head_dim)
    out = F.scaled_dot_product_attention(folded, keys, values, mask)
    return out.reshape(n, num_heads, head_dim)
