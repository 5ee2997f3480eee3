"""One memory plan for all models of an engine, in bytes: weights, activations, and what is left for KV.

::

    CPU   what is available now (weights are already in) → KV gets min(4 GiB, a quarter), or what the user says
    GPU   total · gpu_memory_utilization − what is in use − activations and CUDA graphs, measured → KV

No chat model gets more KV than max_num_seqs sequences of full length can fill. Knows sizes; loads nothing,
and allocates only while a runner measures itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from carrel.config import EngineConfig
from carrel.errors import OutOfMemoryError
from carrel.worker.device_memory import available_bytes, cuda_memory
from carrel.worker.model_runner import ModelRunner
from carrel.worker.prompt_logprobs import PROMPT_ROWS
from carrel.worker.step_limits import StepLimits

GIB = 1 << 30
MIB = 1 << 20
CPU_KV_BYTES = 4 * GIB  # default ceiling: a CPU serves few long contexts at once
CPU_KV_SHARE = 0.25  # of what is available: the rest of the process wants memory too


@dataclass(frozen=True, slots=True)
class CachePlan:
    """KV of one chat model."""

    num_blocks: int
    block_size: int  # tokens
    bytes_per_block: int
    max_model_len: int  # tokens one request may have: the asked or the model's limit, or all blocks if those are fewer

    @property
    def num_bytes(self) -> int:
        return self.num_blocks * self.bytes_per_block

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.block_size


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the bytes of one engine go. ``caches`` has an entry for each chat model."""

    device: str
    weights_bytes: int
    activation_bytes: int
    kv_budget_bytes: int
    caches: Mapping[str, CachePlan]

    @property
    def kv_bytes(self) -> int:
        return sum(cache.num_bytes for cache in self.caches.values())

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes + self.kv_bytes

    def num_blocks(self, model: str) -> int:
        """KV blocks of the hosted model ``model``; 0 if it caches nothing."""
        cache = self.caches.get(model)
        return cache.num_blocks if cache else 0

    def describe(self) -> str:
        """The plan in a few lines of text, for logs and ``carrel doctor``."""
        lines = [
            f"memory plan on {self.device}: weights {format_bytes(self.weights_bytes)}, "
            f"activations up to {format_bytes(self.activation_bytes)}, KV cache {format_bytes(self.kv_bytes)}"
        ]
        lines += [
            f"  {model}: {cache.num_blocks} blocks of {cache.block_size} tokens = {cache.num_tokens} tokens "
            f"in {format_bytes(cache.num_bytes)}; one request holds up to {cache.max_model_len}"
            for model, cache in self.caches.items()
        ]
        return "\n".join(lines)


def format_bytes(count: int) -> str:
    """
    >>> format_bytes(3 * 2**29)
    '1.50 GiB'
    """
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"


def plan_memory(
    device: str,
    runners: Mapping[str, ModelRunner],
    config: EngineConfig,
    *,
    max_model_lens: Mapping[str, int] | None = None,
    unloaded_bytes: int = 0,
) -> MemoryPlan:
    """Share the device out among loaded models; ``unloaded_bytes`` of their weights are still to come.

    ``max_model_lens`` gives the asked limit in tokens by model; models that are not in it have ``config.max_model_len``
    or their own.

    Raises:
        OutOfMemoryError: it does not fit; the message has the numbers and says what to change.
    """
    chats = {key: runner for key, runner in runners.items() if runner.kv_bytes_per_block}
    asked = dict(max_model_lens or {})
    if config.max_model_len is not None:
        asked = dict.fromkeys(chats, config.max_model_len) | asked
    own = {key: runner.config.max_positions for key, runner in runners.items()}
    limits = {key: min(asked.get(key, own[key]), own[key]) for key in runners}
    activations = _activations(runners, config, limits)
    budget = kv_budget(device, activations + unloaded_bytes, config) if chats else 0
    needs = {
        key: config.max_num_seqs * blocks_for(limits[key], config.block_size) * runner.kv_bytes_per_block
        for key, runner in chats.items()
    }
    shares = share_out(budget, needs)
    return MemoryPlan(
        device=device,
        weights_bytes=sum(runner.weights_bytes for runner in runners.values()),
        activation_bytes=activations,
        kv_budget_bytes=budget,
        caches={
            key: _cache_plan(key, runner, shares[key], limits[key], explicit=key in asked)
            for key, runner in chats.items()
        },
    )


def step_limits(config: EngineConfig, max_model_len: int) -> StepLimits:
    """The largest step of a model with ``max_model_len``."""
    return StepLimits(config.max_num_seqs, config.step_tokens, max_model_len)


def _activations(runners: Mapping[str, ModelRunner], config: EngineConfig, limits: Mapping[str, int]) -> int:
    """Beside weights and KV. On a GPU every model keeps its own, since their streams run at the same time."""
    measured = {key: _measured(key, runner, config, limits[key]) for key, runner in runners.items()}
    at_once = sum(taken for taken in measured.values() if taken is not None)
    in_turn = [activation_bytes(runners[key], config) for key, taken in measured.items() if taken is None]
    return at_once + max(in_turn, default=0)


def _measured(key: str, runner: ModelRunner, config: EngineConfig, max_model_len: int) -> int | None:
    try:
        return runner.measured_bytes(step_limits(config, max_model_len), enforce_eager=config.enforce_eager)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"A step of {config.step_tokens} tokens of {key} does not fit beside the weights of all models; "
            "lower max_num_batched_tokens or max_num_seqs, or host smaller or fewer models."
        ) from error


def blocks_for(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)


def share_out(budget: int, needs: Mapping[str, int]) -> dict[str, int]:
    """Equal shares, but to none more than it needs; what one leaves the others get."""
    shares: dict[str, int] = {}
    for index, (key, need) in enumerate(sorted(needs.items(), key=lambda item: item[1])):
        shares[key] = min(need, budget // (len(needs) - index))
        budget -= shares[key]
    return shares


def _cache_plan(key: str, runner: ModelRunner, share: int, limit: int, *, explicit: bool) -> CachePlan:
    num_blocks = share // runner.kv_bytes_per_block
    holds = num_blocks * runner.block_size
    if holds < (limit if explicit else min(limit, 2 * runner.block_size)):
        needed = blocks_for(limit, runner.block_size) * runner.kv_bytes_per_block
        raise OutOfMemoryError(
            f"The KV cache of {key} gets {format_bytes(share)}, which holds {holds} tokens, but one request of "
            f"max_model_len={limit} tokens needs {format_bytes(needed)}; lower max_model_len to at most {holds}, "
            f"raise kv_cache_memory_bytes, or host fewer models."
        )
    return CachePlan(num_blocks, runner.block_size, runner.kv_bytes_per_block, min(limit, holds))


def check_room(plan: MemoryPlan) -> None:
    """
    Raises:
        OutOfMemoryError: a plan whose weights are not loaded needs more than the device has.
    """
    on_cpu = plan.device.startswith("cpu")
    free = available_bytes() if on_cpu else cuda_memory(plan.device)[0]
    if plan.total_bytes > free:
        raise OutOfMemoryError(
            f"{plan.device} has {format_bytes(free)} free and {format_bytes(plan.total_bytes)} are needed, "
            f"{format_bytes(plan.total_bytes - free)} more; host smaller or fewer models, or quantise the chat model."
        )


def kv_budget(device: str, activations: int, config: EngineConfig) -> int:
    """Bytes for all KV caches together; weights are already loaded, or counted among ``activations``.

    Raises:
        OutOfMemoryError: nothing is left, or less than the user asked for.
    """
    if device.startswith("cpu"):
        free = available_bytes() - activations
        default = min(CPU_KV_BYTES, int(free * CPU_KV_SHARE))
    else:
        unused, total = cuda_memory(device)
        free = unused - activations
        default = int(total * config.gpu_memory_utilization) - (total - unused) - activations
    wanted = config.kv_cache_memory_bytes
    if wanted is not None and wanted > free:
        raise OutOfMemoryError(
            f"kv_cache_memory_bytes asks for {format_bytes(wanted)}, but {device} has {format_bytes(max(free, 0))} "
            f"left beside weights and activations; lower it."
        )
    budget = default if wanted is None else wanted
    if budget <= 0:
        raise OutOfMemoryError(
            f"{device} has no memory left for a KV cache: {format_bytes(activations)} are needed beside it and "
            f"{format_bytes(max(free + activations, 0))} are free; host smaller or fewer models, or lower "
            "max_num_batched_tokens."
        )
    return budget


def activation_bytes(runner: ModelRunner, config: EngineConfig) -> int:
    """Estimate of the peak beside weights and KV in a full step: the widest layer, and the logits in fp32."""
    model = runner.config
    tokens = config.step_tokens
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    widest = 4 * model.hidden_size + max(3 * heads, 3 * model.intermediate_size)
    layer = tokens * widest * runner.dtype.itemsize
    if not runner.kv_bytes_per_block:
        return layer
    gathered = 2 * runner.kv_bytes_per_block * blocks_for(model.max_positions, config.block_size) // model.num_layers
    rows = min(max(config.max_num_seqs, PROMPT_ROWS), tokens)
    return layer + gathered + rows * model.vocab_size * 4 * 4  # logits, a sorted copy, its indices, noise
