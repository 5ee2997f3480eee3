"""Drives a runner by hand, as the scheduler would: blocks out of order, chunks as the test wants them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from carrel.models.config import ModelConfig
from carrel.params import PoolingParams, SamplingParams
from carrel.request import Request
from carrel.step import RequestResult, ScheduledRequest
from carrel.worker.forward_batch import build_batch
from carrel.worker.loader import load_runner
from carrel.worker.model_runner import ChatRunner, ModelRunner
from torch import Tensor

BLOCK_SIZE = 8
NUM_BLOCKS = 200


def open_runner(folder: Path, *, dtype: str = "auto", num_blocks: int = NUM_BLOCKS) -> ModelRunner:
    config = ModelConfig.from_folder(folder)
    runner = load_runner(folder, config, device="cpu", dtype=dtype, block_size=BLOCK_SIZE)
    if isinstance(runner, ChatRunner):
        runner.allocate_kv_cache(num_blocks)
    return runner


def random_ids(count: int, *, vocab_size: int = 600, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(5, vocab_size) for _ in range(count)]


@dataclass
class Driver:
    """Gives each request blocks from a shuffled pool and runs the steps that the test asks for."""

    runner: ModelRunner
    free: list[int] = field(default_factory=list)
    tables: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.free = random.Random(1).sample(range(NUM_BLOCKS), NUM_BLOCKS)

    def schedule(self, request: Request, count: int) -> ScheduledRequest:
        table = self.tables.setdefault(request.request_id, [])
        while len(table) * BLOCK_SIZE < request.num_computed_tokens + count:
            table.append(self.free.pop())
        samples = request.num_computed_tokens + count == request.num_tokens
        start = request.num_computed_tokens
        num_logits = request.num_prompt_logits(start, start + count)
        return ScheduledRequest(request, count, list(table), start, samples, num_prompt_logits=num_logits)

    def step(self, *work: tuple[Request, int]) -> list[RequestResult]:
        """Compute so many more tokens of each request; append what was sampled."""
        results = self.runner.execute([self.schedule(request, count) for request, count in work])
        for (request, count), result in zip(work, results, strict=True):
            request.num_computed_tokens += count
            request.output_token_ids += result.token_ids
        return results

    @torch.inference_mode()
    def logits(self, request: Request, count: int) -> Tensor:
        """Logits [count, vocab_size] of the next ``count`` tokens, all rows of them."""
        items = [self.schedule(request, count)]
        batch = build_batch(items, block_size=BLOCK_SIZE, causal=True, device=torch.device("cpu"))
        hidden = self.runner.model(batch.input_ids, batch.positions, batch.plan, self.runner.caches)
        request.num_computed_tokens += count
        return self.runner.model.logits(hidden)

    def generate(self, requests: list[Request], max_tokens: int) -> list[list[int]]:
        """Every request in every step, prompts whole, as long as it has fewer than ``max_tokens``."""
        while any(request.num_output_tokens < max_tokens for request in requests):
            running = [request for request in requests if request.num_output_tokens < max_tokens]
            self.step(*[(request, request.num_tokens - request.num_computed_tokens) for request in running])
        return [request.output_token_ids for request in requests]


def chat_request(ids: list[int], name: str = "r", *, seed: int = 0, **params: object) -> Request:
    return Request(
        name,
        "model",
        ids,
        sampling_params=SamplingParams(**{"temperature": 0.0, "max_tokens": None, **params}),
        seed=seed,
    )


def pooling_item(ids: list[int], types: list[int] | None = None, **params: object) -> ScheduledRequest:
    request = Request("p", "model", ids, pooling_params=PoolingParams(**params), token_type_ids=types)
    return ScheduledRequest(request, len(ids))


def dense_parameters(model):
    """The model's parameters by name, those that lie in oneDNN's blocks as rows again."""
    return {
        name.replace(".packed.blocks", ".weight"): weight.to_dense() if weight.is_mkldnn else weight
        for name, weight in model.named_parameters()
    }
