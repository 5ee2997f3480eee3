"""From hidden states to one vector for each input, in fp32, as sentence-transformers' modules say.

Chain: pool over the tokens → dense layers → cut to ``dimensions`` → normalise. A vector that is not finite is an error
of its own input and of no other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carrel.errors import InvalidParamsError, StepError
from carrel.layers.activation import Activation, activation
from carrel.layers.linear import Linear
from carrel.layers.ops import Ops
from carrel.models.pooling_config import DenseConfig, PoolingConfig
from carrel.models.weights import Checkpoint, load_weights
from carrel.params import PoolingParams
from carrel.step import RequestResult


class Pooler:
    """Made once for each embedder."""

    def __init__(self, config: PoolingConfig, hidden_size: int, device: str, ops: Ops) -> None:
        self.config = config
        self.ops = ops
        self.output_dim = config.output_dim(hidden_size)
        self.dense = [_load_dense(dense, device) for dense in config.dense]

    def pool(self, hidden: Tensor, cu_seqlens: list[int], params: list[PoolingParams]) -> list[RequestResult]:
        """``hidden`` [num_tokens, hidden_size]; rows [cu_seqlens[i], cu_seqlens[i + 1]) belong to input i."""
        bounds = torch.tensor(cu_seqlens, device=hidden.device)
        pooled = torch.cat([self.ops.pool_tokens(hidden, bounds, mode) for mode in self.config.modes], dim=-1)
        for linear, act in self.dense:
            pooled = act(linear.forward(pooled))  # [num_inputs, out_features]
        return self._finish(pooled, params)

    def _finish(self, pooled: Tensor, params: list[PoolingParams]) -> list[RequestResult]:
        """Cut, normalise and check; one copy to the CPU for all inputs that want the same."""
        results = [RequestResult() for _ in params]
        wishes: dict[tuple[int | None, bool], list[int]] = {}
        for row, param in enumerate(params):
            normalize = self.config.normalize if param.normalize is None else param.normalize
            wishes.setdefault((param.dimensions, normalize), []).append(row)
        for (size, normalize), rows in wishes.items():
            if size is not None and size > self.output_dim:
                message = f"dimensions must be at most {self.output_dim} for this model, got {size}."
                for row in rows:
                    results[row].error = InvalidParamsError(message, param="dimensions")
                continue
            vectors = pooled[rows, :size]  # [len(rows), size]
            vectors = self.ops.l2_normalize(vectors) if normalize else vectors
            _deliver(vectors, [results[row] for row in rows])
        return results


def _deliver(vectors: Tensor, results: list[RequestResult]) -> None:
    """Each row into its result, as an array of its own; a row that is not finite becomes an error."""
    finite = torch.isfinite(vectors).all(dim=-1).tolist()
    for row, good, result in zip(vectors.cpu().numpy(), finite, results, strict=True):
        if good:
            result.pooled = row.copy()
        else:
            result.error = StepError("The model gave a vector that is not finite; try dtype float32.")


def _load_dense(config: DenseConfig, device: str) -> tuple[Linear, Activation]:
    with torch.device("meta"):
        linear = Linear(config.in_features, config.out_features, config.bias)
    names = {name: [f"linear.{name}"] for name, _ in linear.named_parameters()}
    load_weights(linear, Checkpoint(config.folder), names, device=device, dtype=torch.float32)
    return linear, activation(config.activation)
