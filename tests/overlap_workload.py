"""Twelve chat requests on a small KV cache, for tests that overlap scheduling changes no answer of a model."""

from __future__ import annotations

import random
from collections.abc import Iterator

from carrel.core import EngineCore
from carrel.kv_cache import KVCacheManager
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.scheduler import Scheduler
from carrel.stats import SchedulerStats
from carrel.step import Executor

BLOCK_SIZE = 8
NUM_BLOCKS = 9  # so few that requests give way
MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, MAX_MODEL_LEN = 8, 40, 64

PLAIN = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "logprobs": 3, "prompt_logprobs": 1},
    {"temperature": 1.0, "min_tokens": 6, "stop_token_ids": list(range(100))},
    {"temperature": 1.0, "stop_token_ids": list(range(60))},
]
PENALISED = [*PLAIN, {"temperature": 0.7, "presence_penalty": 1.0, "repetition_penalty": 1.2}]

Answer = tuple[list[int], str | None, list[float]]  # tokens, finish reason, logprobs of prompt and answer


def requests(params: list[dict]) -> Iterator[Request]:
    numbers = random.Random(0)
    for index in range(12):
        prompt = [numbers.randrange(5, 300) for _ in range(numbers.choice([1, 5, 8, 30]))]
        sampling = SamplingParams(max_tokens=20, **params[index % len(params)])
        yield Request(str(index), "chat", prompt, sampling_params=sampling, max_tokens=4 + index, seed=index)


def answers(executor: Executor, params: list[dict], *, overlap: bool) -> tuple[dict[str, Answer], SchedulerStats]:
    """What the chat model named "chat" says to every request, by request id."""
    kv_cache = KVCacheManager(NUM_BLOCKS, BLOCK_SIZE, enable_caching=True, max_model_len=MAX_MODEL_LEN)
    limits = {"max_num_seqs": MAX_NUM_SEQS, "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS}
    scheduler = Scheduler({"chat": kv_cache}, **limits)
    core = EngineCore(scheduler, executor, overlap=overlap)
    for request in requests(params):
        core.add_request(request)
    found: dict[str, Answer] = {}
    while core.has_work:
        for output in core.step():
            tokens, _, logprobs = found.get(output.request_id, ([], None, []))
            tokens += output.new_token_ids
            entries = [*(output.prompt_logprobs or []), *(output.logprobs or [])]
            logprobs += [value for entry in entries for value in entry.logprobs]
            found[output.request_id] = (tokens, output.finish_reason, logprobs)
    scheduler.check_idle()
    return found, scheduler.stats()
