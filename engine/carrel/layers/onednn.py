"""Dense weights on a CPU, laid out once as oneDNN's product reads them, instead of anew in each product.

torch's own product takes weights as rows. oneDNN wants blocks, and so bf16 weights are laid out again in every call;
for the dozen tokens of a short text that costs more than the product. The operators are those that torch's compiler
emits; where this build of torch has none, or they give a wrong product, weights stay as they are. Knows no model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carrel.layers.linear import Linear

DTYPES = (torch.float32, torch.bfloat16)


class BlockedWeight(NamedTuple):
    blocks: Tensor  # [num_outputs, num_inputs] in a layout that only oneDNN reads


class OneDnnDense:
    """Implements :class:`carrel.layers.weight_formats.WeightFormat`. Twin: ``torch.nn.functional.linear``."""

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        return True

    def pack(self, weight: Tensor) -> BlockedWeight:
        return BlockedWeight(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()))

    def linear(self, x: Tensor, packed: BlockedWeight, bias: Tensor | None) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed.blocks, bias, "none", [], "")
        return out


def prepare_dense(module: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Give the projections in ``module``, which is still on the meta device, their format; loading packs them."""
    if device != "cpu" or not has_blocked_products(dtype):
        return
    for layer in module.modules():
        if isinstance(layer, Linear) and layer.format is None:
            layer.format = OneDnnDense()


def has_blocked_products(dtype: torch.dtype) -> bool:
    """Whether the operators are there and right: they are torch's private ones."""
    is_built_in: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if dtype not in DTYPES or not is_built_in:
        return False
    x, weight, bias = (torch.linspace(-1, 1, rows * 64).view(rows, 64).to(dtype) for rows in (3, 32, 1))
    bias = bias[0, :32].contiguous()
    try:
        found = OneDnnDense().linear(x, OneDnnDense().pack(weight), bias)
    except (AttributeError, RuntimeError):  # not there, or not for this build or dtype
        return False
    return bool(torch.allclose(found.float(), F.linear(x, weight, bias).float(), rtol=2e-2, atol=2e-2))
