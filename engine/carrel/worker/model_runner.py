"""Runs one model: scheduled requests in, tokens or vectors out. Owns its weights and its KV cache.

Knows nothing of scheduling: which tokens to compute and where their KV goes is already decided.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from carrel.errors import StepError
from carrel.layers.attention import LayerCache
from carrel.models.config import ModelConfig
from carrel.models.decoder import Decoder
from carrel.models.encoder import BertHead, Encoder, RobertaHead
from carrel.params import PoolingParams
from carrel.step import RequestResult, ScheduledRequest
from carrel.worker.forward_batch import ForwardBatch, build_batch
from carrel.worker.pooler import Pooler
from carrel.worker.sampler import sample


class ModelRunner(ABC):
    """One hosted model on its device."""

    def __init__(
        self, config: ModelConfig, model: Decoder | Encoder, *, device: str, dtype: torch.dtype, block_size: int
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.dtype = dtype
        self.block_size = block_size
        self.model = model
        self.caches: list[LayerCache] = []

    @property
    def weights_bytes(self) -> int:
        weights = [weight for module in self._modules() for weight in module.parameters()]
        return sum(weight.numel() * weight.element_size() for weight in weights)

    @property
    def kv_bytes_per_block(self) -> int:
        """Bytes of one KV block over all layers; 0 for a model that caches nothing."""
        return 0

    @torch.inference_mode()
    def execute(self, requests: list[ScheduledRequest]) -> list[RequestResult]:
        """One forward pass. Results are in the order of ``requests``."""
        batch = self._build(requests)
        results = dict(zip(map(id, batch.requests), self._run(batch), strict=True))
        return [results[id(item)] for item in requests]

    def close(self) -> None:
        """Give weights and cache back. Idempotent; the runner is of no use afterwards."""
        self.caches = []
        for module in self._modules():
            module.to_empty(device=torch.device("meta"))

    def _modules(self) -> list[nn.Module]:
        """Everything that holds weights."""
        return [self.model]

    @abstractmethod
    def _build(self, requests: list[ScheduledRequest]) -> ForwardBatch: ...

    @abstractmethod
    def _run(self, batch: ForwardBatch) -> list[RequestResult]: ...


class ChatRunner(ModelRunner):
    """A decoder that generates."""

    model: Decoder

    @property
    def kv_bytes_per_block(self) -> int:
        config = self.config
        elements = 2 * config.num_layers * config.num_kv_heads * config.head_dim * self.block_size
        return elements * self.dtype.itemsize

    def allocate_kv_cache(self, num_blocks: int) -> None:
        """Make room for ``num_blocks`` blocks; once, before the first step."""
        assert not self.caches, "the cache is allocated once"
        config = self.config
        self.caches = [
            LayerCache(config.num_kv_heads, num_blocks, self.block_size, config.head_dim, self.dtype, self.device)
            for _ in range(config.num_layers)
        ]

    def _build(self, requests: list[ScheduledRequest]) -> ForwardBatch:
        assert self.caches, "allocate_kv_cache comes first"
        return build_batch(requests, block_size=self.block_size, causal=True, device=self.device)

    def _run(self, batch: ForwardBatch) -> list[RequestResult]:
        hidden = self.model(batch.input_ids, batch.positions, batch.plan, self.caches)
        results = [RequestResult() for _ in batch.requests]
        if batch.sampled:
            self._sample(self.model.logits(hidden[batch.logits_indices]), batch, results)
        return results

    def _sample(self, logits: Tensor, batch: ForwardBatch, results: list[RequestResult]) -> None:
        """``logits`` [num_samples, vocab_size]. A row that is not finite fails its own request."""
        finite = torch.isfinite(logits.amax(dim=-1)).tolist()  # NaN and +inf win every maximum
        for index, good in zip(batch.sampled, finite, strict=True):
            if not good:
                results[index].error = StepError("The model gave logits that are not finite; try dtype float32.")
        rows = [row for row, good in enumerate(finite) if good]
        if not rows:
            return
        logits = logits if len(rows) == len(finite) else logits[rows]
        indices = [batch.sampled[row] for row in rows]
        sampled = sample(logits, [batch.requests[index].request for index in indices])
        for index, token_id, logprobs in zip(indices, sampled.token_ids, sampled.logprobs, strict=True):
            results[index].token_ids = [token_id]
            results[index].logprobs = None if logprobs is None else [logprobs]


class PoolingRunner(ModelRunner):
    """An encoder, or a decoder without a cache, whose inputs are pooled: common ground of embedders and rerankers."""

    def _build(self, requests: list[ScheduledRequest]) -> ForwardBatch:
        """Inputs of one length stand side by side, so that each length is one attention call without copies."""
        ordered = sorted(requests, key=lambda item: item.num_scheduled_tokens)
        return build_batch(
            ordered, block_size=self.block_size, causal=isinstance(self.model, Decoder), device=self.device
        )

    def _hidden(self, batch: ForwardBatch) -> Tensor:
        """[num_tokens, hidden_size] of the last layer."""
        out: Tensor
        if isinstance(self.model, Decoder):
            caches = [None] * self.config.num_layers
            out = self.model(batch.input_ids, batch.positions, batch.plan, caches)
        else:
            out = self.model(batch.input_ids, batch.positions, batch.token_type_ids, batch.plan)
        return out


class EmbeddingRunner(PoolingRunner):
    """Hidden states pooled into vectors."""

    def __init__(
        self,
        config: ModelConfig,
        model: Decoder | Encoder,
        *,
        device: str,
        dtype: torch.dtype,
        block_size: int,
    ) -> None:
        super().__init__(config, model, device=device, dtype=dtype, block_size=block_size)
        assert config.pooling is not None, "an embedder says how it pools"
        self.pooler = Pooler(config.pooling, config.hidden_size, device, model.ops)

    def _modules(self) -> list[nn.Module]:
        return [self.model, *(linear for linear, _ in self.pooler.dense)]

    def _run(self, batch: ForwardBatch) -> list[RequestResult]:
        params = [item.request.pooling_params or PoolingParams() for item in batch.requests]
        return self.pooler.pool(self._hidden(batch), batch.cu_seqlens_q, params)


class RerankRunner(PoolingRunner):
    """A cross-encoder: raw logits of a head on the first token, in fp32."""

    def __init__(
        self,
        config: ModelConfig,
        model: Encoder,
        head: BertHead | RobertaHead,
        *,
        device: str,
        dtype: torch.dtype,
        block_size: int,
    ) -> None:
        super().__init__(config, model, device=device, dtype=dtype, block_size=block_size)
        self.head = head

    def _modules(self) -> list[nn.Module]:
        return [self.model, self.head]

    def _run(self, batch: ForwardBatch) -> list[RequestResult]:
        first = self._hidden(batch)[batch.cu_seqlens_q[:-1]].to(torch.float32)  # [num_requests, hidden_size]
        logits = self.head(first)  # [num_requests, num_labels]
        finite = torch.isfinite(logits).all(dim=-1).tolist()
        error = StepError("The model gave a score that is not finite; try dtype float32.")
        return [
            RequestResult(pooled=row.numpy().copy()) if good else RequestResult(error=error)
            for row, good in zip(logits.cpu(), finite, strict=True)
        ]
