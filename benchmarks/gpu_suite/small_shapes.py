"""Small models that have what the large ones have: head sizes and groups, head norms, windows, biases, encoders.

They are for comparing whole runs on the device with the same run on the CPU in fp32. Knows shapes alone.
"""

from __future__ import annotations

from gpu_suite.shapes import CONFIGS, Json, Shape

_SMALL: Json = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 8192}
_TINY: Json = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}


def _heads(num_heads: int, num_kv_heads: int, head_dim: int) -> Json:
    return {"num_attention_heads": num_heads, "num_key_value_heads": num_kv_heads, "head_dim": head_dim}


def chat_shapes(*, tiny: bool) -> dict[str, Shape]:
    """By what they stand for."""
    sizes = {**(_TINY if tiny else _SMALL), "max_position_embeddings": 4096, "tie_word_embeddings": True}
    window = {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}
    wide, narrow = (16, 16) if tiny else (128, 64)
    configs = {
        "head norms": {**CONFIGS["Qwen3-8B"], **sizes, **_heads(8, 2, wide), "tie_word_embeddings": False},
        "biases": {**CONFIGS["Qwen2.5-0.5B"], **sizes, **_heads(14, 2, narrow)},
        "window": {**CONFIGS["Qwen2.5-0.5B"], **sizes, **_heads(4, 2, narrow), **window},
    }
    return {name: Shape(name, config) for name, config in configs.items()}


def pooling_shapes(*, tiny: bool) -> dict[str, Shape]:
    sizes = {**(_TINY if tiny else _SMALL), "num_attention_heads": 4 if tiny else 8}
    decoder = {**CONFIGS["Qwen3-0.6B"], **sizes, **_heads(4, 2, 16 if tiny else 128), "architectures": ["Qwen3Model"]}
    configs = {
        "embedder": {**CONFIGS["bge-m3"], **sizes},
        "reranker": {**CONFIGS["bge-reranker-v2-m3"], **sizes},
        "decoder as embedder": decoder,
    }
    return {name: Shape(name, config) for name, config in configs.items()}
