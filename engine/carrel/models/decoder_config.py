"""Decoder families' spellings in config.json → fields of ``ModelConfig``: sizes, rotary scaling, sliding windows."""

from __future__ import annotations

import math
from typing import Any

from carrel.errors import UnsupportedModelError
from carrel.layers.rope_config import RopeConfig, RopeType
from carrel.models.registry import Family

ROPE_TYPES: dict[str, RopeType] = {"default": "default", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}


def decoder_fields(raw: dict[str, Any], family: Family) -> dict[str, Any]:
    null_has_meaning = ("sliding_window",)  # no window; elsewhere null stands for the default
    stated = {key: value for key, value in raw.items() if value is not None or key in null_has_meaning}
    raw = {**dict(family.defaults), **stated}
    fixed = dict(family.fixed)
    if raw["hidden_act"] != "silu":
        raise UnsupportedModelError(f"hidden_act {raw['hidden_act']!r} is not supported in decoders; silu is.")
    num_heads = int(raw["num_attention_heads"])
    attention_bias = bool(raw.get("attention_bias", False))
    return {
        "vocab_size": int(raw["vocab_size"]),
        "hidden_size": int(raw["hidden_size"]),
        "intermediate_size": int(raw["intermediate_size"]),
        "num_layers": int(raw["num_hidden_layers"]),
        "num_heads": num_heads,
        "num_kv_heads": int(raw.get("num_key_value_heads", num_heads)),
        "head_dim": int(raw.get("head_dim", raw["hidden_size"] // num_heads)),
        "hidden_act": "silu",
        "norm_eps": float(raw["rms_norm_eps"]),
        "max_positions": int(raw.get("max_position_embeddings", 2048)),
        "rope": read_rope(raw),
        "sliding_windows": _sliding_windows(raw, fixed),
        "qkv_bias": bool(fixed.get("qkv_bias", attention_bias)),
        "output_bias": attention_bias and not fixed.get("qkv_bias", False),
        "mlp_bias": bool(raw.get("mlp_bias", False)),
        "qk_norm": bool(fixed.get("qk_norm", False)),
        "pad_token_id": raw.get("pad_token_id"),
    }


def _sliding_windows(raw: dict[str, Any], fixed: dict[str, Any]) -> tuple[int | None, ...]:
    """For each layer: how many tokens back it sees, itself included."""
    num_layers = int(raw["num_hidden_layers"])
    window = raw.get("sliding_window")
    if fixed.get("window_everywhere"):
        return (window,) * num_layers
    if not fixed.get("windows_by_layer") or not raw.get("use_sliding_window", False) or window is None:
        return (None,) * num_layers
    types = raw.get("layer_types")
    if types is None:
        first = int(raw.get("max_window_layers", 28))
        return tuple(window if layer >= first else None for layer in range(num_layers))
    unknown = set(types) - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedModelError(f"layer_types {sorted(unknown)} are not supported; full and sliding attention are.")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def read_rope(raw: dict[str, Any]) -> RopeConfig:
    """``rope_theta`` and ``rope_scaling``, or ``rope_parameters`` that holds both.

    Raises:
        UnsupportedModelError: a scaling type or a partial rotation that carrel does not have.
    """
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in scaling.values()):
        raise UnsupportedModelError("Rotary options that differ from layer to layer are not supported.")
    name = str(scaling.get("rope_type", scaling.get("type", "default")))
    if name not in ROPE_TYPES:
        raise UnsupportedModelError(
            f"Rotary scaling of type {name!r} is not supported; supported are {', '.join(ROPE_TYPES)}."
        )
    partial = scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise UnsupportedModelError(f"partial_rotary_factor {partial} is not supported; only whole heads are rotated.")
    theta = float(scaling.get("rope_theta", raw.get("rope_theta", 10_000.0)))
    if name == "default":
        return RopeConfig(theta=theta)
    original = scaling.get("original_max_position_embeddings", raw.get("original_max_position_embeddings"))
    original = int(original or raw["max_position_embeddings"])
    factor = float(scaling.get("factor") or int(raw["max_position_embeddings"]) / original)
    return RopeConfig(
        theta=theta,
        rope_type=ROPE_TYPES[name],
        factor=factor,
        original_max_position_embeddings=original,
        low_freq_factor=float(scaling.get("low_freq_factor", 1.0)),
        high_freq_factor=float(scaling.get("high_freq_factor", 4.0)),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        truncate=bool(scaling.get("truncate", True)),
        attention_factor=_attention_factor(scaling, factor) if name == "yarn" else 1.0,
    )


def _attention_factor(scaling: dict[str, Any], factor: float) -> float:
    """YaRN's scale of cos and sin: stated, or 0.1 ln(factor) + 1, or a ratio of two such."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if above and below:
        return _mscale(factor, above) / _mscale(factor, below)
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
