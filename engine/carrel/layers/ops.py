"""The implementation set of a device: which function computes a norm, a rotation, a pooling, an attention.

Models are built over one ``Ops`` and never ask where they run; this is the only place that does. A CPU has torch's own
operators (``TorchOps``), a GPU Triton kernels (``layers/triton_ops.py``, imported only for it). Knows no weights.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from carrel.config import Quantization
from carrel.kernels import reference, reference_gemm, reference_pooling
from carrel.kernels.pooling_modes import PoolingMode
from carrel.layers.attention import AttentionBackend, LayerCache, TorchAttention
from carrel.layers.attention_plan import AttentionPlan
from carrel.layers.rotary import RotaryEmbedding, RotaryTables, apply_rotary
from carrel.layers.weight_formats import Fp8Rows, TorchInt4, TorchInt8, WeightFormat

Implementation = Literal["auto", "torch", "triton"]


class HeadNorms(NamedTuple):
    """RMSNorm of each query and key head."""

    q_weight: Tensor  # [head_dim]
    k_weight: Tensor  # [head_dim]
    eps: float


class Rotator(Protocol):
    """What stands between the qkv product and attention, for one packed batch; every layer calls it."""

    def __call__(
        self, qkv: Tensor, num_heads: int, num_kv_heads: int, norms: HeadNorms | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norm and rotate queries and keys, store keys and values in ``cache``.

        ``qkv`` [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] may be changed. Returns queries
        [num_tokens, num_heads, head_dim], keys and values [num_tokens, num_kv_heads, head_dim]; rows may lie apart.
        """
        ...


class Ops(Protocol):
    """Everything that models need beside matrix products."""

    @property
    def attention(self) -> AttentionBackend: ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension of [..., size]."""
        ...

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual)."""
        ...

    def layer_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """LayerNorm of ``x + residual`` [num_tokens, size]."""
        ...

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up: [num_tokens, 2 * size] → [num_tokens, size]."""
        ...

    def rotator(self, rotary: RotaryEmbedding, positions: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> Rotator:
        """For a batch of ``positions`` [num_tokens] in a model of ``dtype``."""
        ...

    def pool_tokens(self, hidden: Tensor, cu_seqlens: Tensor, mode: PoolingMode) -> Tensor:
        """[num_tokens, size] → fp32 [num_seqs, size]; rows [cu_seqlens[i], cu_seqlens[i + 1]) are sequence i."""
        ...

    def l2_normalize(self, vectors: Tensor) -> Tensor:
        """fp32 rows divided by their length."""
        ...

    def weight_format(self, quantization: Quantization) -> WeightFormat:
        """How quantised weights are kept and multiplied with."""
        ...


class TorchOps:
    """torch's operators: on a CPU, and wherever Triton is not."""

    def __init__(self, attention: AttentionBackend) -> None:
        self.attention = attention

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return reference.rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return reference.add_rms_norm(x, residual, weight, eps)

    def layer_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return reference.layer_norm(x, residual, weight, bias, eps)

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        return reference.silu_and_mul(gate_up)

    def rotator(self, rotary: RotaryEmbedding, positions: Tensor, plan: AttentionPlan, dtype: torch.dtype) -> Rotator:
        return TorchRotator(rotary.tables(positions, dtype), plan)

    def pool_tokens(self, hidden: Tensor, cu_seqlens: Tensor, mode: PoolingMode) -> Tensor:
        return reference_pooling.pool_tokens(hidden, cu_seqlens, mode)

    def l2_normalize(self, vectors: Tensor) -> Tensor:
        return reference_pooling.l2_normalize(vectors)

    def weight_format(self, quantization: Quantization) -> WeightFormat:
        formats: dict[Quantization, WeightFormat] = {
            "int8": TorchInt8(),
            "int4": TorchInt4(),
            "fp8": Fp8Rows(reference_gemm.quantize_rows),
        }
        return formats[quantization]


class TorchRotator:
    """Norm, rotation and store one after the other."""

    def __init__(self, tables: RotaryTables, plan: AttentionPlan) -> None:
        self._tables, self._plan = tables, plan

    def __call__(
        self, qkv: Tensor, num_heads: int, num_kv_heads: int, norms: HeadNorms | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = split_heads(qkv, num_heads, num_kv_heads)
        if norms is not None:
            query = reference.rms_norm(query, norms.q_weight, norms.eps)
            key = reference.rms_norm(key, norms.k_weight, norms.eps)
        query, key = apply_rotary(query, self._tables), apply_rotary(key, self._tables)
        if cache is not None and self._plan.slot_mapping is not None:
            cache.store(key, value, self._plan.slot_mapping, self._plan.fresh_blocks)
        return query, key, value


def split_heads(qkv: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of packed rows, as views [num_tokens, heads, head_dim]."""
    rows = num_heads + 2 * num_kv_heads
    heads = qkv.view(len(qkv), rows, qkv.shape[1] // rows)
    query, key, value = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], dim=1)
    return query, key, value


def ops_for(device: str, implementation: Implementation = "auto") -> Ops:
    """The implementation set for ``device``: Triton kernels on a GPU, torch elsewhere, or the one that is named.

    >>> type(ops_for("cpu")).__name__
    'TorchOps'
    """
    if implementation == "auto":
        implementation = "triton" if device.startswith("cuda") else "torch"
    if implementation == "torch":
        return TorchOps(TorchAttention())
    from carrel.layers.triton_attention import triton_attention  # loads Triton, which a CPU never needs
    from carrel.layers.triton_ops import TritonOps

    return TritonOps(triton_attention(torch.device(device)))
