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
INT8 = "I8"  # a matrix stored in int8 rows, beside a tensor of its name and ``SCALE``
SCALE = ".scale"


@dataclass(frozen=True)
class WeightFacts:
    """The tensors of a model folder. The scales of int8 rows are bytes, and no parameters."""

    num_parameters: int
    num_bytes: int  # of the files
    dtypes: tuple[str, ...]  # as the files name them, e.g. "BF16"; the one with most numbers first


def read_weight_facts(folder: Path) -> WeightFacts:
    """All ``*.safetensors`` in ``folder``; nothing, if there are none. Files that cannot be read count nothing.

    >>> read_weight_facts(Path("no/such/folder")).num_parameters
    0
    """
    numbers: Counter[str] = Counter()
    tensors = read_headers(folder)
    int8 = {name for name, tensor in tensors.items() if tensor["dtype"] == INT8}
    for name, tensor in tensors.items():
        if tensor["dtype"] not in COUNTERS and not (name.endswith(SCALE) and name.removesuffix(SCALE) in int8):
            numbers[str(tensor["dtype"])] += math.prod(tensor["shape"])
    dtypes = tuple(name for name, _ in numbers.most_common())
    num_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return WeightFacts(sum(numbers.values()), num_bytes, dtypes)


def count_parameters(folder: Path) -> int:
    return read_weight_facts(folder).num_parameters


def read_headers(folder: Path) -> dict[str, Any]:
    """Tensor name → ``{"dtype", "shape", …}`` of all ``*.safetensors`` in ``folder``."""
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_header(path)
    tensors.pop("__metadata__", None)
    return tensors


def has_tensor(folder: Path, name: str) -> bool:
    return name in read_headers(folder)


def read_header(path: Path) -> dict[str, Any]:
    """Tensor name → ``{"dtype", "shape", …}``; empty if the file is not safetensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            data = file.read(length) if 0 < length <= MAX_HEADER else b""
        header = json.loads(data)
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}
