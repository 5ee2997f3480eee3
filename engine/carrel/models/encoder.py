"""BERT, RoBERTa and XLM-RoBERTa: one post-norm encoder, and the heads that turn it into a cross-encoder.

::

    ids → word + position + segment → norm → [ qkv → attention → output → norm(+)
                                               inner → activation → output → norm(+) ] × layers

Knows no pooling of sentence-transformers (``worker/pooler.py``), no tokenizer and no padding: inputs come packed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from carrel.layers.activation import activation
from carrel.layers.attention_plan import AttentionPlan
from carrel.layers.embedding import Embedding
from carrel.layers.linear import Linear
from carrel.layers.norm import LayerNorm
from carrel.layers.ops import Ops
from carrel.models.config import ModelConfig

# Where each parameter of ours lies in the checkpoint; "{}" are the parts of a fused projection.
_RENAMED = {
    "embeddings.word.": "embeddings.word_embeddings.",
    "embeddings.position.": "embeddings.position_embeddings.",
    "embeddings.token_type.": "embeddings.token_type_embeddings.",
    "embeddings.norm.": "embeddings.LayerNorm.",
    "layers.": "encoder.layer.",
    ".attention_output.": ".attention.output.dense.",
    ".attention_norm.": ".attention.output.LayerNorm.",
    ".inner.": ".intermediate.dense.",
    ".outer.": ".output.dense.",
    ".output_norm.": ".output.LayerNorm.",
}


class EncoderEmbeddings(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.offset = config.position_offset
        self.word = Embedding(config.vocab_size, config.hidden_size)
        self.position = Embedding(config.max_positions + self.offset, config.hidden_size)
        self.token_type = Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.norm_eps, ops)

    def forward(self, input_ids: Tensor, positions: Tensor, token_type_ids: Tensor) -> Tensor:
        if self.token_type.weight.shape[0] == 1:  # RoBERTa has one segment, whatever the tokenizer says
            total = self.word(input_ids) + self.token_type.weight
        else:
            total = self.word(input_ids) + self.token_type(token_type_ids)
        out: Tensor = self.norm(total + self.position(positions + self.offset))
        return out


class EncoderLayer(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads, self.head_dim, self.backend = config.num_heads, config.head_dim, ops.attention
        self.qkv = Linear(size, 3 * size, bias=True)
        self.attention_output = Linear(size, size, bias=True)
        self.attention_norm = LayerNorm(size, config.norm_eps, ops)
        self.inner = Linear(size, config.intermediate_size, bias=True)
        self.outer = Linear(config.intermediate_size, size, bias=True)
        self.output_norm = LayerNorm(size, config.norm_eps, ops)
        self.activation = activation(config.hidden_act)

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        heads = self.qkv(x).view(-1, 3, self.num_heads, self.head_dim)
        query, key, value = heads.unbind(1)  # each [num_tokens, num_heads, head_dim]
        attended = self.backend.forward(query, key, value, None, plan, None)
        x = self.attention_norm(self.attention_output(attended), x)
        out: Tensor = self.output_norm(self.outer(self.activation(self.inner(x))), x)
        return out


class Encoder(nn.Module):
    """A bidirectional encoder over packed sequences."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.embeddings = EncoderEmbeddings(config, ops)
        self.layers = nn.ModuleList(EncoderLayer(config, ops) for _ in range(config.num_layers))

    def forward(self, input_ids: Tensor, positions: Tensor, token_type_ids: Tensor, plan: AttentionPlan) -> Tensor:
        """All [num_tokens] int64 → hidden states [num_tokens, hidden_size]."""
        x: Tensor = self.embeddings(input_ids, positions, token_type_ids)
        for layer in self.layers:
            x = layer(x, plan)
        return x

    def weight_sources(self) -> dict[str, list[str]]:
        """Which tensors of a checkpoint make up each parameter."""
        return {name: list(self._sources(name)) for name, _ in self.named_parameters()}

    def _sources(self, name: str) -> Iterator[str]:
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        if ".qkv." in name:
            yield from (name.replace(".qkv.", f".attention.self.{part}.") for part in ("query", "key", "value"))
        else:
            yield name

    @property
    def ignored_weights(self) -> tuple[str, ...]:
        """Heads that this model does not use: of masked language models, classifiers, and BERT's own pooler."""
        return ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.")


class BertHead(nn.Module):
    """BERT's pooler and classifier on the first token, in fp32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.classifier = Linear(config.hidden_size, config.num_labels, bias=True)

    def forward(self, first: Tensor) -> Tensor:
        """[n, hidden_size] → logits [n, num_labels]"""
        out: Tensor = self.classifier(torch.tanh(self.dense(first)))
        return out

    def weight_sources(self) -> dict[str, list[str]]:
        return {
            name: [name.replace("dense.", "pooler.dense.") if name.startswith("dense.") else name]
            for name, _ in self.named_parameters()
        }


class RobertaHead(nn.Module):
    """RoBERTa's two-layer classifier on the first token, in fp32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.out_proj = Linear(config.hidden_size, config.num_labels, bias=True)

    def forward(self, first: Tensor) -> Tensor:
        """[n, hidden_size] → logits [n, num_labels]"""
        out: Tensor = self.out_proj(torch.tanh(self.dense(first)))
        return out

    def weight_sources(self) -> dict[str, list[str]]:
        return {name: [f"classifier.{name}"] for name, _ in self.named_parameters()}


class SpanHead(nn.Module):
    """For each token of a pair, logits that the answer starts, and that it ends there; in fp32.

    As in transformers' BertForQuestionAnswering. It stands beside the classifier, over the same hidden states.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.qa_outputs = Linear(config.hidden_size, 2, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """[num_tokens, hidden_size] → [num_tokens, 2]"""
        out: Tensor = self.qa_outputs(hidden.to(torch.float32))
        return out

    def weight_sources(self) -> dict[str, list[str]]:
        return {name: [name] for name, _ in self.named_parameters()}
