"""Models by their config.json: the shapes of well-known ones, and for each a tiny one of the same make.

What is counted here is what a token costs at least: bytes of weights and cache, and FLOP. Knows no engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_QWEN2: Json = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 32_768,
    "vocab_size": 151_936,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "eos_token_id": 151_643,
}
_QWEN3: Json = {
    **_QWEN2,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "attention_bias": False,
    "max_position_embeddings": 40_960,
}
_BGE: Json = {
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "vocab_size": 250_002,
    "torch_dtype": "bfloat16",
}


def _sizes(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> Json:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


CONFIGS: dict[str, Json] = {
    "Qwen2.5-0.5B": {**_QWEN2, **_sizes(896, 4864, 24, 14, 2), "tie_word_embeddings": True},
    "Qwen3-0.6B": {**_QWEN3, **_sizes(1024, 3072, 28, 16, 8), "tie_word_embeddings": True},
    "Qwen2.5-7B": {**_QWEN2, **_sizes(3584, 18_944, 28, 28, 4), "vocab_size": 152_064, "tie_word_embeddings": False},
    "Qwen3-8B": {**_QWEN3, **_sizes(4096, 12_288, 36, 32, 8), "tie_word_embeddings": False},
    "bge-m3": _BGE,
    "bge-reranker-v2-m3": {
        **_BGE,
        "architectures": ["XLMRobertaForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
    },
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model by its config.json."""

    name: str
    config: Json
    weight_bytes: tuple[float, float] = (2.0, 2.0)  # of a layer's weight and of one of the output head

    @property
    def is_encoder(self) -> bool:
        return "num_key_value_heads" not in self.config

    @property
    def head_dim(self) -> int:
        return int(self.config.get("head_dim", self.config["hidden_size"] // self.config["num_attention_heads"]))

    @property
    def linear_weights(self) -> int:
        """Parameters that every token is multiplied with, the head of a decoder left out."""
        config = self.config
        hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        kv_heads = heads if self.is_encoder else config["num_key_value_heads"]
        attention = hidden * self.head_dim * (2 * heads + 2 * kv_heads)
        return int(layers * (attention + (2 if self.is_encoder else 3) * hidden * inner))

    @property
    def head_weights(self) -> int:
        return 0 if self.is_encoder else int(self.config["vocab_size"] * self.config["hidden_size"])

    @property
    def step_bytes(self) -> float:
        """Weights that one decode step reads."""
        layers, head = self.weight_bytes
        return layers * self.linear_weights + head * self.head_weights

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token, in bf16."""
        config = self.config
        return int(2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * self.head_dim)

    def decode_bytes(self, batch: int, context: float) -> float:
        """For one token of a step of ``batch`` sequences that are ``context`` tokens long on average."""
        return self.step_bytes / batch + context * self.kv_bytes

    def decode_flops(self, context: float) -> float:
        """For one token."""
        return 2.0 * (self.linear_weights + self.head_weights) + self._attention_flops(context)

    def prefill_flops(self, length: int) -> float:
        """For one token of a prompt of ``length`` tokens; the head runs once a prompt."""
        keys = length if self.is_encoder else length / 2
        return 2.0 * self.linear_weights + 2.0 * self.head_weights / length + self._attention_flops(keys)

    def _attention_flops(self, keys: float) -> float:
        config = self.config
        return float(4 * config["num_hidden_layers"] * config["num_attention_heads"] * self.head_dim * keys)

    def write(self, folder: Path) -> Path:
        """The model folder: config.json, and for an embedder how it pools."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", self.config)
        if self.config["architectures"][0].endswith("Model"):
            _write_pooling(folder, self.config["hidden_size"])
        return folder


def shape_of(name: str, *, tiny: bool) -> Shape:
    """The shape called ``name``, or its tiny likeness under the same name."""
    config = CONFIGS[name]
    return Shape(name, _shrunk(config) if tiny else config)


def _shrunk(config: Json) -> Json:
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads")
    group = heads // kv_heads if kv_heads else 1
    small: Json = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}
    small |= {"num_attention_heads": 2 * group, "torch_dtype": "float32", "eos_token_id": 2}
    small["hidden_size"] = 16 * small["num_attention_heads"]
    if kv_heads:
        small["num_key_value_heads"] = 2
    if "head_dim" in config:
        small["head_dim"] = 16
    return {**config, **small, "max_position_embeddings": min(config["max_position_embeddings"], 2050)}


def _write_pooling(folder: Path, hidden_size: int) -> None:
    """sentence-transformers' files as bge-m3 has them: the first token, normalised."""
    names = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    _write_json(folder / "modules.json", modules)
    for path in paths[1:]:
        (folder / path).mkdir(exist_ok=True)
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden_size, "pooling_mode": "cls"})


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
