"""Triton kernels as an implementation set. Import it only where they run: on a GPU, or under Triton's interpreter.

Knows which kernel does what; formulas and launches are the kernels' own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carrel.config import Quantization
from carrel.kernels import layer_norm, pooling, quantize_rows, rms_norm, rope_store, silu_mul
from carrel.kernels.pooling_modes import PoolingMode
from carrel.layers.attention import AttentionBackend, LayerCache
from carrel.layers.attention_plan import AttentionPlan
from carrel.layers.ops import HeadNorms, Rotator, split_heads
from carrel.layers.rotary import RotaryEmbedding
from carrel.layers.triton_weights import TritonInt4, TritonInt8
from carrel.layers.weight_formats import Fp8Rows, WeightFormat


class TritonOps:
    """One launch for each operation; nothing waits for the device, so that a CUDA graph can hold them all."""

    def __init__(self, attention: AttentionBackend) -> None:
        self.attention = attention

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm.rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return rms_norm.add_rms_norm(x, residual, weight, eps)

    def layer_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return layer_norm.layer_norm(x, residual, weight, bias, eps)

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        return silu_mul.silu_and_mul(gate_up)

    def rotator(self, rotary: RotaryEmbedding, positions: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> Rotator:
        return TritonRotator(rotary.by_position(positions.device), positions, plan)

    def pool_tokens(self, hidden: Tensor, cu_seqlens: Tensor, mode: PoolingMode) -> Tensor:
        return pooling.pool_tokens(hidden, cu_seqlens, mode)

    def l2_normalize(self, vectors: Tensor) -> Tensor:
        return pooling.l2_normalize(vectors)

    def weight_format(self, quantization: Quantization) -> WeightFormat:
        formats: dict[Quantization, WeightFormat] = {
            "int8": TritonInt8(),
            "int4": TritonInt4(),
            "fp8": Fp8Rows(quantize_rows.quantize_rows),
        }
        return formats[quantization]


class TritonRotator:
    """Norm, rotation and store in one launch, in place in ``qkv``."""

    def __init__(self, cos_sin: Tensor, positions: Tensor, plan: AttentionPlan) -> None:
        self._cos_sin, self._positions, self._plan = cos_sin, positions, plan

    def __call__(
        self, qkv: Tensor, num_heads: int, num_kv_heads: int, norms: HeadNorms | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rope_store.rope_store(
            qkv,
            self._cos_sin,
            self._positions,
            num_heads=num_heads,
            q_weight=norms.q_weight if norms else None,
            k_weight=norms.k_weight if norms else None,
            eps=norms.eps if norms else 0.0,
            keys=cache.keys if cache else None,
            values=cache.values if cache else None,
            slot_mapping=self._plan.slot_mapping if cache else None,
        )
        return split_heads(qkv, num_heads, num_kv_heads)
