"""From hidden states to one vector for each input, in fp32, as sentence-transformers' modules say.

Chain: pool over the tokens → dense layers → cut to ``dimensions`` → normalise. A vector that is not finite is an error
of its own input and of no other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carrel.errors import InvalidParamsError
from carrel.layers.activation import Activation, activation
from carrel.layers.linear import Linear
from carrel.layers.ops import Ops
from carrel.models.pooling_config import DenseConfig, PoolingConfig
from carrel.models.weights import Checkpoint, load_weights
from carrel.params import PoolingParams
from carrel.step import RequestResult
from carrel.worker.vectors import PooledStep, ReadBack


class Pooler:
    """Made once for each embedder."""

    def __init__(self, config: PoolingConfig, hidden_size: int, device: str, ops: Ops) -> None:
        self.config = config
        self.ops = ops
        self.output_dim = config.output_dim(hidden_size)
        self.dense = [_load_dense(dense, device) for dense in config.dense]

    def pool(
        self, hidden: Tensor, cu_seqlens: Tensor, params: list[PoolingParams], read_back: ReadBack = Tensor.cpu
    ) -> PooledStep:
        """``hidden`` [num_tokens, hidden_size]; rows [cu_seqlens[i], cu_seqlens[i + 1]) belong to input i.

        Waits for nothing unless ``read_back`` does.
        """
        pooled = torch.cat([self.ops.pool_tokens(hidden, cu_seqlens, mode) for mode in self.config.modes], dim=-1)
        for linear, act in self.dense:
            pooled = act(linear.forward(pooled))  # [num_inputs, out_features]
        step = PooledStep([RequestResult() for _ in params], "vector")
        for (size, normalize), rows in self._wishes(params).items():
            if size is not None and size > self.output_dim:
                message = f"dimensions must be at most {self.output_dim} for this model, got {size}."
                for row in rows:
                    step.results[row].error = InvalidParamsError(message, param="dimensions")
                continue
            chosen = pooled if len(rows) == len(params) else pooled[rows]
            vectors = chosen[:, :size].contiguous()  # [len(rows), size]
            step.copies.append((rows, read_back(self.ops.l2_normalize(vectors) if normalize else vectors)))
        return step

    def _wishes(self, params: list[PoolingParams]) -> dict[tuple[int | None, bool], list[int]]:
        """Inputs that want the same (dimensions, normalize): one copy to the host for all of them."""
        wishes: dict[tuple[int | None, bool], list[int]] = {}
        for row, param in enumerate(params):
            normalize = self.config.normalize if param.normalize is None else param.normalize
            wishes.setdefault((param.dimensions, normalize), []).append(row)
        return wishes


def _load_dense(config: DenseConfig, device: str) -> tuple[Linear, Activation]:
    with torch.device("meta"):
        linear = Linear(config.in_features, config.out_features, config.bias)
    names = {name: [f"linear.{name}"] for name, _ in linear.named_parameters()}
    load_weights(linear, Checkpoint(config.folder), names, device=device, dtype=torch.float32)
    return linear, activation(config.activation)
