"""Encoder families' spellings in config.json → fields of ``ModelConfig``."""

from __future__ import annotations

from typing import Any

from carrel.errors import UnsupportedModelError
from carrel.layers.activation import ACTIVATION_NAMES
from carrel.models.registry import Family


def encoder_fields(raw: dict[str, Any], family: Family) -> dict[str, Any]:
    raw = {**dict(family.defaults), **{key: value for key, value in raw.items() if value is not None}}
    _refuse_unknown(raw)
    pad = int(raw["pad_token_id"])
    offset = pad + 1 if dict(family.fixed).get("positions_after_pad") else 0
    num_heads = int(raw["num_attention_heads"])
    return {
        "vocab_size": int(raw["vocab_size"]),
        "hidden_size": int(raw["hidden_size"]),
        "intermediate_size": int(raw["intermediate_size"]),
        "num_layers": int(raw["num_hidden_layers"]),
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": int(raw["hidden_size"]) // num_heads,
        "hidden_act": str(raw.get("hidden_act", "gelu")),
        "norm_eps": float(raw["layer_norm_eps"]),
        "max_positions": int(raw.get("max_position_embeddings", 512)) - offset,
        "type_vocab_size": int(raw.get("type_vocab_size", 2)),
        "position_offset": offset,
        "pad_token_id": pad,
    }


def _refuse_unknown(raw: dict[str, Any]) -> None:
    positions = raw.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UnsupportedModelError(f"position_embedding_type {positions!r} is not supported; absolute is.")
    if raw.get("is_decoder", False):
        raise UnsupportedModelError("An encoder with is_decoder=true is not supported; use a decoder architecture.")
    if raw.get("hidden_act", "gelu") not in ACTIVATION_NAMES:
        raise UnsupportedModelError(
            f"hidden_act {raw['hidden_act']!r} is not supported; supported are {', '.join(ACTIVATION_NAMES)}."
        )
