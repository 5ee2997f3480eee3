"""One rank's share of a decoder: its configuration, and whether the model can be shared out at all. Loads nothing."""

from __future__ import annotations

from dataclasses import replace

from carrel.errors import InvalidParamsError
from carrel.models.config import ModelConfig


def share_of(config: ModelConfig, size: int) -> ModelConfig:
    """``config`` with the heads, KV heads and inner columns that each of ``size`` ranks has; the vocabulary is whole.

    Raises:
        InvalidParamsError: they cannot be shared out equally.
    """
    counts = {
        "KV heads": config.num_kv_heads,
        "attention heads": config.num_heads,
        "inner columns": config.intermediate_size,
    }
    for name, count in counts.items():
        if count % size:
            raise InvalidParamsError(
                f"tensor_parallel_size={size} does not divide the {count} {name} of {config.folder.name}; "
                f"choose a divisor of {count}.",
                param="tensor_parallel_size",
            )
    return replace(
        config,
        num_heads=config.num_heads // size,
        num_kv_heads=config.num_kv_heads // size,
        intermediate_size=config.intermediate_size // size,
    )
