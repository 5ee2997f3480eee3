"""Runs one model: scheduled requests in, tokens or vectors out. Owns its weights and its KV cache.

Knows nothing of scheduling: which tokens to compute and where their KV goes is already decided.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from carrel.layers.attention import LayerCache
from carrel.layers.attention_plan import AttentionPlan
from carrel.models.config import ModelConfig
from carrel.models.decoder import Decoder
from carrel.models.encoder import BertHead, Encoder, RobertaHead, SpanHead
from carrel.params import PoolingParams
from carrel.step import FinishedBatch, PendingBatch, RequestResult, ScheduledRequest
from carrel.worker.forward_batch import ForwardBatch, build_batch
from carrel.worker.pooler import Pooler
from carrel.worker.prompt_logprobs import launch_prompt_logprobs
from carrel.worker.step_limits import StepLimits
from carrel.worker.step_sampler import HostSampler, StepSampler
from carrel.worker.vectors import PooledStep, ReadBack


class ModelRunner(ABC):
    """One hosted model on its device."""

    is_asynchronous: bool = False  # whether submit returns before the device is done

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
    def num_weights(self) -> int:
        return sum(weight.numel() for module in self._modules() for weight in module.parameters())

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

    def submit(self, requests: list[ScheduledRequest]) -> PendingBatch:
        """Start one forward pass. See :class:`carrel.step.Executor` for what an asynchronous runner must do."""
        return FinishedBatch(self.execute(requests))

    def prepare(self, limits: StepLimits, *, enforce_eager: bool = False) -> None:  # noqa: B027
        """Make ready for steps of at most ``limits``: buffers and CUDA graphs. Once, after the cache is there."""

    def measured_bytes(self, limits: StepLimits, *, enforce_eager: bool = False) -> int | None:
        """What it takes beside weights and KV in the largest step, graphs included; None where that is estimated.

        Before the cache is allocated. Leaves the runner as it was.
        """
        return None

    def release(self, request_ids: Sequence[str]) -> None:  # noqa: B027
        """These requests ended: forget what is kept for them."""

    def close(self) -> None:
        """Give weights and cache back. Idempotent; the runner is of no use afterwards."""
        self.caches = []
        for module in self._modules():
            for owner in module.modules():
                for name, _ in list(owner.named_parameters(recurse=False)):
                    setattr(owner, name, None)  # to_empty() knows no weight in oneDNN's layout

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

    def __init__(
        self, config: ModelConfig, model: Decoder, *, device: str, dtype: torch.dtype, block_size: int
    ) -> None:
        super().__init__(config, model, device=device, dtype=dtype, block_size=block_size)
        self.sampler: StepSampler = HostSampler()

    @property
    def captured_sizes(self) -> list[int]:
        """Batch sizes that have a CUDA graph."""
        return []

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

    def release(self, request_ids: Sequence[str]) -> None:
        """What the sampler keeps for these requests goes."""
        self.sampler.release(request_ids)

    def _build(self, requests: list[ScheduledRequest]) -> ForwardBatch:
        assert self.caches, "allocate_kv_cache comes first"
        return build_batch(requests, block_size=self.block_size, causal=True, device=self.device)

    def _run(self, batch: ForwardBatch) -> list[RequestResult]:
        hidden = self.model(batch.input_ids, batch.positions, batch.plan, self.caches)
        results = [RequestResult() for _ in batch.requests]
        prompts = launch_prompt_logprobs(self.model, hidden, batch.requests, Tensor.cpu)
        if batch.sampled:
            items = [batch.requests[index] for index in batch.sampled]
            sampled = self.sampler.sample(self.model.logits(hidden[batch.logits_indices]), items)
            for index, result in zip(batch.sampled, sampled.results(), strict=True):
                results[index] = result
        for prompt in prompts:
            prompt.put(results)
        return results


class PoolingRunner(ModelRunner):
    """An encoder, or a decoder without a cache, whose inputs are pooled: common ground of embedders and rerankers."""

    def _build(self, requests: list[ScheduledRequest]) -> ForwardBatch:
        """Inputs of one length stand side by side, so that each length is one attention call without copies."""
        ordered = sorted(requests, key=lambda item: item.num_scheduled_tokens)
        return build_batch(
            ordered, block_size=self.block_size, causal=isinstance(self.model, Decoder), device=self.device
        )

    def _run(self, batch: ForwardBatch) -> list[RequestResult]:
        hidden = self._hidden(batch.input_ids, batch.positions, batch.token_type_ids, batch.plan)
        cu_seqlens = torch.tensor(batch.cu_seqlens_q, device=self.device)
        return self._pool(hidden, cu_seqlens, batch.requests, Tensor.cpu).finish()

    def _hidden(self, input_ids: Tensor, positions: Tensor, token_type_ids: Tensor, plan: AttentionPlan) -> Tensor:
        """[num_tokens, hidden_size] of the last layer."""
        out: Tensor
        if isinstance(self.model, Decoder):
            out = self.model(input_ids, positions, plan, [None] * self.config.num_layers)
        else:
            out = self.model(input_ids, positions, token_type_ids, plan)
        return out

    @abstractmethod
    def _pool(
        self, hidden: Tensor, cu_seqlens: Tensor, items: Sequence[ScheduledRequest], read_back: ReadBack
    ) -> PooledStep:
        """One row for each item, on the way to the host. ``cu_seqlens`` [len(items) + 1], rows of ``hidden``."""


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

    def _pool(
        self, hidden: Tensor, cu_seqlens: Tensor, items: Sequence[ScheduledRequest], read_back: ReadBack
    ) -> PooledStep:
        params = [item.request.pooling_params or PoolingParams() for item in items]
        return self.pooler.pool(hidden, cu_seqlens, params, read_back)


class RerankRunner(PoolingRunner):
    """A cross-encoder: raw logits of a head on the first token, in fp32; with a second head spans as well."""

    def __init__(
        self,
        config: ModelConfig,
        model: Encoder,
        head: BertHead | RobertaHead,
        span_head: SpanHead | None = None,
        *,
        device: str,
        dtype: torch.dtype,
        block_size: int,
    ) -> None:
        super().__init__(config, model, device=device, dtype=dtype, block_size=block_size)
        self.head, self.span_head = head, span_head

    def _modules(self) -> list[nn.Module]:
        return [module for module in (self.model, self.head, self.span_head) if module is not None]

    def _pool(
        self, hidden: Tensor, cu_seqlens: Tensor, items: Sequence[ScheduledRequest], read_back: ReadBack
    ) -> PooledStep:
        first = hidden.index_select(0, cu_seqlens[:-1]).to(torch.float32)  # [num_requests, hidden_size]
        logits = read_back(self.head(first))  # [num_requests, num_labels]
        step = PooledStep([RequestResult() for _ in items], "score", [(list(range(len(items))), logits)])
        if self.span_head is not None and any(item.request.wants_spans for item in items):
            step.by_token = read_back(self.span_head(hidden))  # [num_tokens, 2]
            ends = list(accumulate(item.num_scheduled_tokens for item in items))
            step.tokens = {
                index: slice(end - item.num_scheduled_tokens, end)
                for index, (item, end) in enumerate(zip(items, ends, strict=True))
                if item.request.wants_spans
            }
        return step
