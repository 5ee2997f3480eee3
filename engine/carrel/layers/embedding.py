"""Rows of a table by id; the same table may serve as the output head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carrel.layers.weight_formats import PackedWeight, WeightFormat


class Embedding(nn.Module):
    """``weight`` [num_embeddings, size], or what its ``format`` made of it."""

    packed: PackedWeight | None

    def __init__(self, num_embeddings: int, size: int) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.format: WeightFormat | None = None  # set before the weight is loaded
        self.weight = nn.Parameter(torch.empty(num_embeddings, size), requires_grad=False)
        self.register_module("packed", None)

    def forward(self, ids: Tensor) -> Tensor:
        if self.packed is not None:
            return self.packed.rows(ids)
        return F.embedding(ids, self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, size] → [n, num_embeddings]: the head of a model with tied weights."""
        if self.packed is not None:
            out: Tensor = self.packed(hidden, None)
            return out
        return F.linear(hidden, self.weight)
