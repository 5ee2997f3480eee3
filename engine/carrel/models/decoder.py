"""Llama, Qwen2, Qwen3 and Mistral: one pre-norm decoder whose differences are fields of ``ModelConfig``.

::

    ids → embedding → [ norm → qkv → (head norms) → rotary → attention → output
                        norm → gate, up → silu(gate) · up → down ] × layers → norm → (head) → logits

Queries, keys and values come from one product, gate and up from another. Knows no requests, no sampling, no cache
policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from carrel.layers.attention import LayerCache
from carrel.layers.attention_plan import AttentionPlan
from carrel.layers.linear import Linear
from carrel.layers.norm import RMSNorm
from carrel.layers.ops import HeadNorms, Ops, Rotator
from carrel.layers.parallel import Alone, ParallelGroup, Split, VocabularyEmbedding, gather_logits, share
from carrel.layers.rotary import RotaryEmbedding
from carrel.models.config import ModelConfig


class DecoderAttention(nn.Module):
    def __init__(self, config: ModelConfig, window: int | None, ops: Ops, group: ParallelGroup) -> None:
        super().__init__()
        self.group = group
        self.head_dim = config.head_dim
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.window, self.backend = window, ops.attention
        rows = self.num_heads + 2 * self.num_kv_heads
        self.qkv_proj = Linear(config.hidden_size, rows * self.head_dim, config.qkv_bias)
        self.o_proj = Linear(self.num_heads * self.head_dim, config.hidden_size, config.output_bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps, ops) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps, ops) if config.qk_norm else None

    def forward(self, x: Tensor, rotate: Rotator, cache: LayerCache | None, plan: AttentionPlan) -> Tensor:
        qkv = self.qkv_proj(x)  # [num_tokens, rows * head_dim]
        query, key, value = rotate(qkv, self.num_heads, self.num_kv_heads, self._head_norms(), cache)
        out: Tensor = self.o_proj(self.backend.forward(query, key, value, cache, plan, self.window))
        return self.group.all_reduce(out)

    def _head_norms(self) -> HeadNorms | None:
        if self.q_norm is None or self.k_norm is None:
            return None
        return HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig, window: int | None, ops: Ops, group: ParallelGroup) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.ops, self.group = ops, group
        self.input_layernorm = RMSNorm(size, config.norm_eps, ops)
        self.self_attn = DecoderAttention(config, window, ops, group)
        self.post_attention_layernorm = RMSNorm(size, config.norm_eps, ops)
        self.gate_up_proj = Linear(size, 2 * inner, config.mlp_bias)
        self.down_proj = Linear(inner, size, config.mlp_bias)

    def forward(
        self, x: Tensor, residual: Tensor | None, rotate: Rotator, cache: LayerCache | None, plan: AttentionPlan
    ) -> tuple[Tensor, Tensor]:
        """``x`` still has to be added to ``residual``: the next norm does both in one pass."""
        x, residual = self.input_layernorm.add(x, residual)
        x = self.self_attn(x, rotate, cache, plan)
        x, residual = self.post_attention_layernorm.add(x, residual)
        x = self.down_proj(self.ops.silu_and_mul(self.gate_up_proj(x)))
        return self.group.all_reduce(x), residual


class Decoder(nn.Module):
    """A causal language model, or an embedder made of one (no head).

    In a ``group`` of several ranks ``config`` is one rank's share (``models/sharding.py``).
    """

    def __init__(self, config: ModelConfig, ops: Ops, group: ParallelGroup | None = None) -> None:
        super().__init__()
        assert config.rope is not None, "a decoder rotates its queries and keys"
        group = group or Alone()
        self.ops, self.group, self.vocab_size = ops, group, config.vocab_size
        self.embed_tokens = VocabularyEmbedding(config.vocab_size, config.hidden_size, group)
        self.layers = nn.ModuleList(DecoderLayer(config, window, ops, group) for window in config.sliding_windows)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, ops)
        has_head = config.task == "chat" and not config.tie_word_embeddings
        num_rows = share(config.vocab_size, group.size)
        self.lm_head = Linear(config.hidden_size, num_rows, bias=False) if has_head else None
        self.rotary = RotaryEmbedding(config.head_dim, config.rope, config.max_positions)

    def forward(
        self, input_ids: Tensor, positions: Tensor, plan: AttentionPlan, caches: Sequence[LayerCache | None]
    ) -> Tensor:
        """``input_ids`` and ``positions`` [num_tokens] → hidden states [num_tokens, hidden_size], normed."""
        x: Tensor = self.embed_tokens(input_ids)
        rotate = self.ops.rotator(self.rotary, positions, plan, x.dtype)
        residual: Tensor | None = None
        for layer, cache in zip(self.layers, caches, strict=True):
            x, residual = layer(x, residual, rotate, cache, plan)
        return self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden_size] → [n, vocab_size], in the model's dtype."""
        local: Tensor = self.embed_tokens.logits(hidden) if self.lm_head is None else self.lm_head(hidden)
        return gather_logits(local, self.group, self.vocab_size)

    def weight_sources(self) -> dict[str, list[str]]:
        """Which tensors of a checkpoint make up each parameter."""
        return {name: list(self._sources(name)) for name, _ in self.named_parameters()}

    def _sources(self, name: str) -> Iterator[str]:
        if ".qkv_proj." in name:
            yield from (name.replace("qkv_proj", f"{part}_proj") for part in "qkv")
        elif ".gate_up_proj." in name:
            yield from (name.replace("gate_up_proj", f"mlp.{part}_proj") for part in ("gate", "up"))
        else:
            yield name.replace(".down_proj.", ".mlp.down_proj.")

    def weight_splits(self) -> dict[str, Split]:
        """Which slice of those tensors a rank has, for the parameters that are shared out."""
        return {name: split for name, _ in self.named_parameters() if (split := self._split(name)) is not None}

    def _split(self, name: str) -> Split | None:
        if name in ("embed_tokens.weight", "lm_head.weight"):
            return Split("vocabulary", self.vocab_size)
        if ".qkv_proj." in name or ".gate_up_proj." in name:
            return Split("rows")
        if ".o_proj." in name or ".down_proj." in name:
            return Split("first" if name.endswith("bias") else "columns")
        return None

    @property
    def ignored_weights(self) -> tuple[str, ...]:
        """A head that is tied, or that an embedder does not use, may lie in the checkpoint all the same."""
        return ("lm_head.",) if self.lm_head is None else ()
