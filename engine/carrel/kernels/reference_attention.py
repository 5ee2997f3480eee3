"""The plain-torch twins of the attention kernels: one sequence after the other, products and softmax in fp32.

Formulas only: no device choice, no weights, no shapes of a particular model. They read lengths on the host.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from carrel.kernels.reference import gather_kv


def paged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    num_splits: int = 1,
    out: Tensor | None = None,
) -> Tensor:
    """One query a sequence over its cached tokens; see ``paged_attention.paged_attention``. Splits change nothing."""
    cu_seqlens_q = torch.arange(query.shape[0] + 1, device=query.device)
    out = torch.zeros_like(query) if out is None else out.zero_()
    for seq in torch.nonzero(seq_lens).flatten().tolist():
        out[seq : seq + 1] = prefill_attention(
            query, keys, values, block_tables[seq : seq + 1], seq_lens[seq : seq + 1], cu_seqlens_q[seq : seq + 2],
            scale=scale, window=window,
        )[seq : seq + 1]  # fmt: skip
    return out


def prefill_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    *,
    scale: float,
    window: int | None = None,
    num_rows: int | None = None,
    max_query_len: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The last tokens of each sequence over its cached tokens; see ``prefill_attention.prefill_attention``."""
    out = torch.zeros_like(query) if out is None else out
    starts = cu_seqlens_q.tolist()
    for seq, seq_len in enumerate(seq_lens.tolist()):
        rows = slice(starts[seq], starts[seq + 1])
        num_blocks = -(-seq_len // keys.shape[2])
        table = block_tables[seq : seq + 1, :num_blocks].to(torch.int64)
        key, value = (gather_kv(side, table)[0, :, :seq_len] for side in (keys, values))
        out[rows] = _attend(query[rows], key, value, scale, window, causal=True)
    return out


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    *,
    max_seq_len: int,
    scale: float,
    causal: bool = False,
    window: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Sequences that lie end to end, each over itself; see ``varlen_attention.varlen_attention``."""
    out = torch.zeros_like(query) if out is None else out
    starts = cu_seqlens.tolist()
    for start, end in itertools.pairwise(starts):
        rows = slice(start, end)
        key_rows, value_rows = (side[rows].transpose(0, 1) for side in (key, value))
        out[rows] = _attend(query[rows], key_rows, value_rows, scale, window, causal=causal)
    return out


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, *, causal: bool) -> Tensor:
    """``query`` [m, num_heads, head_dim], the last m tokens; ``key``, ``value`` [num_kv_heads, n, head_dim]."""
    (m, num_heads, head_dim), (num_kv_heads, n, _) = query.shape, key.shape
    rows = query.to(torch.float32).view(m, num_kv_heads, num_heads // num_kv_heads, head_dim)
    logits = torch.einsum("mhgd,hnd->hgmn", rows, key.to(torch.float32)) * scale
    last = torch.arange(n - m, n, device=query.device).unsqueeze(1)
    tokens = torch.arange(n, device=query.device)
    visible = tokens <= last if causal else torch.ones(m, n, dtype=torch.bool, device=query.device)
    if window is not None:
        visible = visible & (tokens > last - window)
    weights = logits.masked_fill(~visible, float("-inf")).softmax(-1)
    out = torch.einsum("hgmn,hnd->mhgd", weights, value.to(torch.float32))
    return out.reshape(m, num_heads, head_dim).to(query.dtype)
