"""A matrix product with weights. The seam where quantised weights come in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carrel.layers.weight_formats import PackedWeight, WeightFormat


class Linear(nn.Module):
    """y = x Wᵀ + b with ``weight`` [out_features, in_features], or with what its ``format`` made of it."""

    bias: nn.Parameter | None
    packed: PackedWeight | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.format: WeightFormat | None = None  # set before the weight is loaded
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.register_module("packed", None)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False)
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            out: Tensor = self.packed(x, self.bias)
            return out
        return F.linear(x, self.weight, self.bias)
