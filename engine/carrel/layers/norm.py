"""RMSNorm and LayerNorm. The residual addition is part of the signature, since fast kernels do both in one pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrel.layers.ops import Ops


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean in fp32. Over the last dimension, so it also normalises single heads."""

    def __init__(self, size: int, eps: float, ops: Ops) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps
        self.ops = ops

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns (norm(x + residual), x + residual); ``residual`` None counts as zero."""
        if residual is None:
            return self.forward(x), x
        return self.ops.add_rms_norm(x, residual, self.weight, self.eps)


class LayerNorm(nn.Module):
    """The usual layer norm with bias, of ``x + residual``."""

    def __init__(self, size: int, eps: float, ops: Ops) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps
        self.ops = ops

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.ops.layer_norm(x, residual, self.weight, self.bias, self.eps)
