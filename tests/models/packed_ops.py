"""Operators of torch that read a batch as kernels do: from ``plan.metadata`` alone, with padded rows and no spans."""

from __future__ import annotations

import torch
from carrel.kernels import reference_attention
from carrel.layers.attention import LayerCache
from carrel.layers.attention_plan import AttentionPlan
from carrel.layers.ops import HeadNorms, Ops, Rotator, TorchOps, TorchRotator
from carrel.layers.rotary import RotaryEmbedding
from carrel.worker.cuda_pooling import CudaEmbeddingRunner, CudaRerankRunner
from carrel.worker.cuda_runner import CudaChatRunner
from carrel.worker.model_runner import EmbeddingRunner, ModelRunner, RerankRunner
from torch import Tensor


class PackedAttention:
    """The twins of the attention kernels over the metadata."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: LayerCache | None,
        plan: AttentionPlan,
        window: int | None,
    ) -> Tensor:
        metadata, scale = plan.metadata, query.shape[-1] ** -0.5
        if cache is None or metadata.block_tables is None:
            out = reference_attention.varlen_attention(
                query, key, value, metadata.cu_seqlens_q,
                max_seq_len=metadata.max_seq_len, scale=scale, causal=plan.causal, window=window,
            )  # fmt: skip
        else:
            out = reference_attention.prefill_attention(
                query, cache.keys, cache.values, metadata.block_tables, metadata.seq_lens, metadata.cu_seqlens_q,
                scale=scale, window=window,
            )  # fmt: skip
        return out.flatten(1)


class PackedRotator(TorchRotator):
    """Stores rows whose slot is not -1, as the kernel does."""

    def __call__(
        self, qkv: Tensor, num_heads: int, num_kv_heads: int, norms: HeadNorms | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().__call__(qkv, num_heads, num_kv_heads, norms, None)
        slots = self._plan.slot_mapping
        if cache is not None and slots is not None:
            stored = slots >= 0
            cache.store(key[stored], value[stored], slots[stored], None)
        return query, key, value


class PackedOps(TorchOps):
    def __init__(self) -> None:
        super().__init__(PackedAttention())

    def rotator(self, rotary: RotaryEmbedding, positions: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> Rotator:
        return PackedRotator(rotary.tables(positions, dtype), plan)


def as_on_a_gpu(plain: ModelRunner, ops: Ops) -> ModelRunner:
    """The GPU's runner over the weights of ``plain``, on the CPU; ``plain`` is of no use afterwards."""
    for module in plain.model.modules():
        if hasattr(module, "ops"):
            module.__dict__["ops"] = ops
        if hasattr(module, "backend"):
            module.__dict__["backend"] = ops.attention
    options = {"device": "cpu", "dtype": plain.dtype, "block_size": plain.block_size}
    if isinstance(plain, EmbeddingRunner):
        return CudaEmbeddingRunner(plain.config, plain.model, **options)
    if isinstance(plain, RerankRunner):
        return CudaRerankRunner(plain.config, plain.model, plain.head, plain.span_head, **options)
    return CudaChatRunner(plain.config, plain.model, **options)
