"""Attention through Triton kernels: which kernel attends which part of a packed batch.

::

    packed rows    | decode A | decode B | chunk of C ........ | whole prompt D ......... |
    kernel           paged, split over     prefill over the cache; varlen over the rows themselves where no
                     the keys              sequence has a cached prefix (torch's own, if it is there and faster)

Nothing waits for the device, and grids follow from the bounds in the metadata, so that a CUDA graph can hold a decode
step. Import it only on a GPU or under Triton's interpreter. Knows no formulas and no launches: those are the kernels'.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carrel.kernels.paged_attention import choose_num_splits, paged_attention
from carrel.kernels.prefill_attention import prefill_attention
from carrel.kernels.varlen_attention import varlen_attention
from carrel.layers.attention import LayerCache
from carrel.layers.attention_metadata import AttentionMetadata
from carrel.layers.attention_plan import AttentionPlan
from carrel.layers.torch_varlen import TorchVarlen, torch_varlen


class TritonAttention:
    """``num_sms``: multiprocessors of the device. ``torch_varlen``: torch's kernel for whole sequences, to be tried."""

    def __init__(self, num_sms: int, torch_varlen: TorchVarlen | None = None) -> None:
        self._num_sms = num_sms
        self._torch_varlen = torch_varlen

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: LayerCache | None,
        plan: AttentionPlan,
        window: int | None,
    ) -> Tensor:
        metadata = plan.metadata
        if cache is None or metadata.block_tables is None:
            return self._whole(query, key, value, metadata, 0, plan.causal, window, None).flatten(1)
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        if metadata.num_decodes:
            self._decode(query, cache, metadata, window, out)
        if not metadata.decodes_only and metadata.is_fresh:
            self._whole(query, key, value, metadata, metadata.num_decodes, True, window, out)
        elif not metadata.decodes_only:
            self._chunks(query, cache, metadata, window, out)
        return out.flatten(1)

    def _decode(
        self, query: Tensor, cache: LayerCache, metadata: AttentionMetadata, window: int | None, out: Tensor
    ) -> None:
        """The first rows, one for each of the first sequences."""
        assert metadata.block_tables is not None, "decodes read a cache"
        count, num_kv_heads = metadata.num_decodes, cache.keys.shape[0]
        longest = metadata.max_seq_len if window is None else min(window, metadata.max_seq_len)
        paged_attention(
            query[:count],
            cache.keys,
            cache.values,
            metadata.block_tables[:count],
            metadata.seq_lens[:count],
            scale=query.shape[2] ** -0.5,
            window=window,
            num_splits=choose_num_splits(count, num_kv_heads, longest, self._num_sms),
            out=out[:count],
        )

    def _chunks(
        self, query: Tensor, cache: LayerCache, metadata: AttentionMetadata, window: int | None, out: Tensor
    ) -> None:
        """The sequences behind the decodes, over their cached tokens."""
        assert metadata.block_tables is not None, "chunks read a cache"
        first = metadata.num_decodes
        prefill_attention(
            query,
            cache.keys,
            cache.values,
            metadata.block_tables[first:],
            metadata.seq_lens[first:],
            metadata.cu_seqlens_q[first:],
            scale=query.shape[2] ** -0.5,
            window=window,
            num_rows=query.shape[0] - first,
            max_query_len=metadata.max_query_len,
            out=out,
        )

    def _whole(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        metadata: AttentionMetadata,
        first: int,
        causal: bool,
        window: int | None,
        out: Tensor | None,
    ) -> Tensor:
        """The sequences from ``first`` on, each over its own rows."""
        cu_seqlens, longest = metadata.cu_seqlens_q[first:], metadata.max_query_len
        if self._torch_varlen is not None and first == 0 and self._torch_varlen.serves(query, key, causal, window):
            return self._torch_varlen(query, key, value, cu_seqlens, longest, causal)
        return varlen_attention(
            query,
            key,
            value,
            cu_seqlens,
            max_seq_len=longest,
            scale=query.shape[2] ** -0.5,
            causal=causal,
            window=window,
            out=out,
        )


def triton_attention(device: torch.device) -> TritonAttention:
    """For ``device``, a GPU; or a CPU under the interpreter, as if it had one multiprocessor."""
    if device.type != "cuda":
        return TritonAttention(num_sms=1)
    num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    return TritonAttention(num_sms, torch_varlen(device, _ours))


def _ours(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seq_len: int, causal: bool) -> Tensor:
    """What torch's kernel has to beat."""
    scale = query.shape[2] ** -0.5
    return varlen_attention(query, key, value, cu_seqlens, max_seq_len=max_seq_len, scale=scale, causal=causal)
