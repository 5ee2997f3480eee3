"""Executors, requests and mailboxes for tests of the engine core. No torch: a token is a function of tokens."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

import numpy as np
from async_device import AsyncDevice
from carrel.core import EngineCore
from carrel.kv_cache import KVCacheManager
from carrel.params import PoolingParams, SamplingParams
from carrel.request import Request
from carrel.scheduler import Scheduler
from carrel.step import (
    EngineOutput,
    FinishedBatch,
    ModelBatch,
    PendingBatch,
    RequestResult,
    ScheduledRequest,
    TokenLogprobs,
)

VOCAB_SIZE = 1000


def chat_request(
    request_id: str,
    prompt: Sequence[int],
    *,
    max_tokens: int = 4,
    model: str = "chat",
    priority: int = 0,
    cache_salt: str | None = None,
    eos: frozenset[int] = frozenset(),
    **params,
) -> Request:
    return Request(
        request_id,
        model,
        list(prompt),
        sampling_params=SamplingParams(max_tokens=max_tokens, **params),
        max_tokens=max_tokens,
        priority=priority,
        cache_salt=cache_salt,
        eos_token_ids=eos,
    )


def pooling_request(request_id: str, num_tokens: int, *, model: str = "embedder", priority: int = 0) -> Request:
    return Request(request_id, model, [7] * num_tokens, pooling_params=PoolingParams(), priority=priority)


def next_token(tokens: Sequence[int]) -> int:
    """The token that the fake model answers after exactly these tokens."""
    digest = hashlib.blake2b(repr(list(tokens)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % VOCAB_SIZE


def expected_tokens(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What the fake model answers to ``prompt`` when nothing goes wrong and nothing stops it."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class CheckingExecutor:
    """A model whose KV cache is a list of tokens by block, so that it notices every wrong block.

    Each scheduled token is written into its slot; what is read for a request, through its block table, must then be
    exactly the request's tokens. The answer is computed from what was read, never from the request.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.slots: dict[tuple[str, int, int], int] = {}  # (model, block, offset) → token
        self.batches: list[ModelBatch] = []
        self.num_computed: dict[str, int] = {}  # request id → tokens computed in all
        self.released: list[str] = []

    def execute(self, batch: ModelBatch) -> list[RequestResult]:
        self.batches.append(batch)
        ids = [item.request.request_id for item in batch.requests]
        assert len(set(ids)) == len(ids) > 0, "a batch holds each request once and is not empty"
        chats = [item for item in batch.requests if not item.request.is_pooling]
        self._check_written_blocks_are_private(chats)
        for item in chats:
            self._write(batch.model, item)
        return [
            self._pool(item) if item.request.is_pooling else self._read(batch.model, item) for item in batch.requests
        ]

    @property
    def is_asynchronous(self) -> bool:
        return False

    def submit(self, batch: ModelBatch) -> PendingBatch:
        return FinishedBatch(self.execute(batch))

    def release(self, request_ids: list[str]) -> None:
        self.released.extend(request_ids)

    def _check_written_blocks_are_private(self, items: list[ScheduledRequest]) -> None:
        held = [block_id for item in items for block_id in set(item.block_table)]
        for item in items:
            for index in range(item.num_computed_tokens // self.block_size, -(-item.num_tokens // self.block_size)):
                assert held.count(item.block_table[index]) == 1, "a request writes into a block that another one holds"

    def _write(self, model: str, item: ScheduledRequest) -> None:
        request, start = item.request, item.num_computed_tokens
        assert item.num_scheduled_tokens > 0, "nothing is scheduled in vain"
        assert item.num_tokens <= request.num_tokens, "more is scheduled than there is"
        assert item.samples == (item.num_tokens == request.num_tokens), "a step samples when it reaches the last token"
        tokens = request.token_ids(start, item.num_tokens)
        for position, token in enumerate(tokens, start):
            block_id = item.block_table[position // self.block_size]
            self.slots[model, block_id, position % self.block_size] = token
        self.num_computed[request.request_id] = self.num_computed.get(request.request_id, 0) + len(tokens)

    def _read(self, model: str, item: ScheduledRequest) -> RequestResult:
        request, end = item.request, item.num_tokens
        read = [
            self.slots[model, item.block_table[position // self.block_size], position % self.block_size]
            for position in range(end)
        ]
        assert read == request.token_ids(0, end), "the cache does not hold this request's tokens"
        return RequestResult([next_token(read)] if item.samples else [], prompt_logprobs=self._prompt_logprobs(item))

    def _prompt_logprobs(self, item: ScheduledRequest) -> list[TokenLogprobs] | None:
        """Of each prompt token that this step predicts: its id, and its place as the logarithm."""
        first = item.num_computed_tokens + 1
        places = range(first, first + item.num_prompt_logits)
        assert not places or places[-1] < item.request.num_prompt_tokens, (
            "the last token of a prompt predicts the answer"
        )
        found = [TokenLogprobs([item.request.prompt_token_ids[place]], [-float(place)], [1]) for place in places]
        return found or None

    def _pool(self, item: ScheduledRequest) -> RequestResult:
        assert item.num_scheduled_tokens == item.request.num_prompt_tokens, "an input is pooled whole"
        assert item.block_table == [], "pooling holds no KV"
        return RequestResult(pooled=np.array([item.request.num_prompt_tokens], dtype=np.float32))


class FaultyExecutor(CheckingExecutor):
    """Asks ``fault(batch)`` before each batch; it may raise, or return results of its own."""

    def __init__(self, block_size: int, fault: Callable[[ModelBatch], list[RequestResult] | None]) -> None:
        super().__init__(block_size)
        self.fault = fault

    def execute(self, batch: ModelBatch) -> list[RequestResult]:
        results = self.fault(batch)
        return super().execute(batch) if results is None else results


class Engine:
    """A scheduler with one chat model and one embedder on a checking executor, behind an asynchronous device or not."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        enable_caching: bool = True,
        max_model_len: int = 200,
        executor: CheckingExecutor | None = None,
        overlap: bool = False,
        **limits,
    ) -> None:
        self.kv_cache = KVCacheManager(
            num_blocks, block_size, enable_caching=enable_caching, max_model_len=max_model_len
        )
        self.scheduler = Scheduler({"chat": self.kv_cache}, pooling_models={"embedder": 500}, **limits)
        self.executor = executor or CheckingExecutor(block_size)
        self.device = AsyncDevice(self.executor) if overlap else self.executor
        self.core = EngineCore(self.scheduler, self.device, overlap=overlap)
        self.outputs: list[EngineOutput] = []

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.core.check_fits(request)
            self.core.add_request(request)

    def step(self) -> list[EngineOutput]:
        news = self.core.step()
        self.kv_cache.check_integrity()
        self.outputs += news
        return news

    def work(self) -> dict[str, int]:
        """Do one step and say what it computed: {request id: tokens}, in order."""
        step = self.scheduler.schedule()
        scheduled = {item.request.request_id: item.num_scheduled_tokens for b in step.batches for item in b.requests}
        results = [self.executor.execute(batch) for batch in step.batches]
        self.outputs += self.scheduler.update(step, results)
        self.kv_cache.check_integrity()
        return scheduled

    def run(self, *requests: Request, max_steps: int = 5000) -> dict[str, list[int]]:
        """Add, step until nothing is left, and return the tokens of every request so far."""
        self.add(*requests)
        for _ in range(max_steps):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work, "the engine does not come to an end"
        self.scheduler.check_idle()
        return self.tokens()

    def tokens(self) -> dict[str, list[int]]:
        tokens: dict[str, list[int]] = {}
        for output in self.outputs:
            tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
        return tokens

    def last(self, request_id: str) -> EngineOutput:
        return [output for output in self.outputs if output.request_id == request_id][-1]


class ListMailbox:
    """Keeps every delivery. ``wait()`` returns when the given requests have ended."""

    def __init__(self) -> None:
        self.deliveries: list[list[EngineOutput]] = []
        self._changed = threading.Condition()

    def deliver(self, outputs: list[EngineOutput]) -> None:
        with self._changed:
            self.deliveries.append(list(outputs))
            self._changed.notify_all()

    def outputs(self) -> list[EngineOutput]:
        with self._changed:
            return [output for delivery in self.deliveries for output in delivery]

    def ends(self) -> dict[str, list[EngineOutput]]:
        ends: dict[str, list[EngineOutput]] = {}
        for output in self.outputs():
            if output.finished:
                ends.setdefault(output.request_id, []).append(output)
        return ends

    def wait(self, *request_ids: str, timeout: float = 10.0) -> list[EngineOutput]:
        """The terminal outputs of these requests, in this order."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._have_ended(request_ids), timeout), "requests did not end"
        ends = self.ends()
        return [ends[request_id][-1] for request_id in request_ids]

    def _have_ended(self, request_ids: Sequence[str]) -> bool:
        ended = {output.request_id for delivery in self.deliveries for output in delivery if output.finished}
        return ended.issuperset(request_ids)
