"""Writes weights in the storage format "int8 rows": a quarter of float32's size, read by ``carrel.models.weights``.

Each 2-D tensor ``X`` becomes int8 [rows, columns] beside ``X.scale``, float32 [rows]; W = X * scale[:, None]. Tensors
of one dimension stay, in float32. It knows the format; it knows no model. With the repository's root on ``sys.path`` it
is ``training.int8_rows``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SCALE = ".scale"
LARGEST = 127  # -128 is never used: a row and its negative are stored alike


def write_int8_rows(tensors: Mapping[str, Tensor], path: Path) -> None:
    """``tensors`` into the safetensors file ``path``. Of tied tensors pass one.

    Raises:
        ValueError: a tensor is not finite, not floating-point or has more than two dimensions.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dim() not in (1, 2) or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} cannot be stored in int8 rows.")
        if tensor.dim() == 1:
            stored[name] = tensor.detach().cpu().float().clone()
        else:
            stored[name], stored[name + SCALE] = quantize_rows(tensor)
    save_file(stored, path, metadata={"format": "pt"})


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [rows, columns] and float32 [rows] of ``weight`` [rows, columns].

    >>> quantize_rows(torch.tensor([[0.5, -1.0], [0.0, 0.0]]))[0].tolist()
    [[64, -127], [0, 0]]
    """
    weight = weight.detach().cpu().float()
    scale = weight.abs().amax(1) / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a row of zeros
    rows = (weight / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return rows.contiguous(), scale


def dequantize_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """float32 [rows, columns]: what the engine will compute with."""
    return rows.float() * scale[:, None]
