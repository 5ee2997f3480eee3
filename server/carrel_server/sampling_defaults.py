"""Sampling defaults that a model's author wrote into generation_config.json. Knows that file alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def read_sampling_defaults(folder: Path) -> dict[str, Any]:
    """What requests to this model get where they say nothing, as vLLM does with ``--generation-config auto``.

    ``do_sample: false`` beside sampling values is common in the wild; like vLLM, only the values count.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    config = json.loads(path.read_text(encoding="utf-8"))
    return {name: config[name] for name in NAMES if config.get(name) is not None}
