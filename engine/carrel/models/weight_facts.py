"""What safetensors files say of themselves in their headers. Reads some kilobytes of each; knows no model, no torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER = 100 << 20  # safetensors' own limit
LENGTH_BYTES = 8
COUNTERS = frozenset({"I64", "I32", "BOOL"})  # positions and masks that old checkpoints hold: no parameters


@dataclass(frozen=True)
class WeightFacts:
    """The tensors of a model folder."""

    num_parameters: int
    num_bytes: int  # of the files
    dtypes: tuple[str, ...]  # as the files name them, e.g. "BF16"; the one with most numbers first


def read_weight_facts(folder: Path) -> WeightFacts:
    """All ``*.safetensors`` in ``folder``; nothing, if there are none. Files that cannot be read count nothing.

    >>> read_weight_facts(Path("no/such/folder")).num_parameters
    0
    """
    numbers: Counter[str] = Counter()
    num_bytes = 0
    for path in sorted(folder.glob("*.safetensors")):
        num_bytes += path.stat().st_size
        for name, tensor in read_header(path).items():
            if name != "__metadata__" and tensor["dtype"] not in COUNTERS:
                numbers[str(tensor["dtype"])] += math.prod(tensor["shape"])
    dtypes = tuple(name for name, _ in numbers.most_common())
    return WeightFacts(sum(numbers.values()), num_bytes, dtypes)


def count_parameters(folder: Path) -> int:
    return read_weight_facts(folder).num_parameters


def read_header(path: Path) -> dict[str, Any]:
    """Tensor name → ``{"dtype", "shape", …}``; empty if the file is not safetensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        data = file.read(length) if 0 < length <= MAX_HEADER else b""
    try:
        header = json.loads(data)
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}
