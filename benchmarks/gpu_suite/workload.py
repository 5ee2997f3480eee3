"""What is asked of the engine in each measurement: how many requests, how long, in full and in tiny size."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from carrel.params import PoolingParams, SamplingParams
from carrel.request import Request


@dataclass(frozen=True, kw_only=True)
class ChatSizes:
    """Tokens and requests of the chat measurements."""

    single: tuple[int, int] = (128, 256)  # prompt and output of batch 1
    batch: int = 256
    batched: tuple[int, int] = (128, 128)
    mixed: tuple[int, int] = (100, 1024)  # uniform bounds of prompt and output, as nano-vllm's bench has them
    prefill: tuple[int, int] = (32, 1024)  # prompts, and tokens of each
    long_prompts: tuple[int, ...] = (1024, 8192)
    repeats: int = 3


@dataclass(frozen=True, kw_only=True)
class PoolingSizes:
    """Inputs of the embedding and rerank measurements."""

    inputs: int = 2048
    length: int = 512
    mixed: tuple[int, int] = (16, 512)  # uniform bounds of inputs of several lengths


TINY_CHAT = ChatSizes(
    single=(8, 8), batch=8, batched=(8, 8), mixed=(4, 24), prefill=(4, 32), long_prompts=(16, 64), repeats=1
)
TINY_POOLING = PoolingSizes(inputs=16, length=32, mixed=(4, 32))
FIRST_ID = 10  # below stand special tokens


class Requests:
    """Makes requests for one model; every prompt is new, so that no prefix is found in the cache."""

    def __init__(self, model: str, vocab_size: int, seed: int = 0) -> None:
        self.model = model
        self._vocab_size = vocab_size
        self._random = random.Random(seed)
        self._count = 0

    def prompt(self, length: int) -> list[int]:
        return self._random.choices(range(FIRST_ID, self._vocab_size), k=length)

    def chat(self, length: int, max_tokens: int, *, prompt: list[int] | None = None, **params: Any) -> Request:
        """Greedy unless ``params`` say otherwise, and of exactly ``max_tokens`` tokens."""
        options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, **params}
        sampling = SamplingParams(max_tokens=max_tokens, **options)
        return Request(
            self._next_id(),
            self.model,
            prompt or self.prompt(length),
            sampling_params=sampling,
            max_tokens=max_tokens,
            seed=self._count,
        )

    def mixed(self, count: int, low: int, high: int, **params: Any) -> list[Request]:
        """Prompts and outputs uniform in [low, high]."""
        draw = self._random.randint
        return [self.chat(draw(low, high), draw(low, high), **params) for _ in range(count)]

    def pooling(self, length: int, *, prompt: list[int] | None = None) -> Request:
        return Request(self._next_id(), self.model, prompt or self.prompt(length), pooling_params=PoolingParams())

    def _next_id(self) -> str:
        self._count += 1
        return f"{self.model}-{self._count}"
