"""A mixed workload of chats and inputs to pool, and an engine core that runs it to its end."""

from __future__ import annotations

import random
from collections.abc import Mapping

from carrel.core import EngineCore
from carrel.kv_cache import KVCacheManager
from carrel.request import Request
from carrel.scheduler import Scheduler
from carrel.step import EngineOutput
from carrel.worker.executor import DeviceExecutor
from carrel.worker.model_runner import ModelRunner
from carrel.worker.step_limits import StepLimits
from driving import BLOCK_SIZE, chat_request, pooling_item, random_ids

LIMITS = StepLimits(max_num_seqs=4, max_num_batched_tokens=24, max_model_len=64)
NUM_BLOCKS = 14  # too few for four: some give way


def work(seed: int) -> list[Request]:
    """Chats of all kinds of parameters, and inputs to pool."""
    chance = random.Random(seed)
    requests = []
    for index in range(10):
        params: dict[str, object] = {"temperature": chance.choice([0.0, 0.8])}
        params |= chance.choice([{}, {"min_tokens": 4}, {"logprobs": 2}, {"top_k": 5}, {"repetition_penalty": 1.2}])
        ids = random_ids(chance.choice([2, 9, 20]), seed=chance.choice([1, 2, index]))  # some share a prefix
        request = chat_request(ids, f"r{index}", seed=index, **params)
        request.max_tokens = chance.randint(1, 25)
        request.eos_token_ids = frozenset(random_ids(60, seed=seed))
        requests.append(request)
    for index in range(4):
        pooled = pooling_item(random_ids(5 + index, vocab_size=100, seed=index)).request
        pooled.request_id, pooled.model = f"p{index}", "embedder"
        requests.append(pooled)
    chance.shuffle(requests)
    return requests


def run(runners: Mapping[str, ModelRunner], requests: list[Request], *, overlap: bool) -> dict[str, EngineOutput]:
    """All outputs of each request in one, as its reader would join them. The requests come two by two."""
    kv_cache = KVCacheManager(NUM_BLOCKS, BLOCK_SIZE, enable_caching=True, max_model_len=LIMITS.max_model_len)
    scheduler = Scheduler(
        {"model": kv_cache},
        pooling_models={"embedder": 64},
        max_num_seqs=LIMITS.max_num_seqs,
        max_num_batched_tokens=LIMITS.max_num_batched_tokens,
    )
    core = EngineCore(scheduler, DeviceExecutor(runners), overlap=overlap)
    joined: dict[str, EngineOutput] = {}
    waiting = list(requests)
    while waiting or core.has_work:
        for request in waiting[:2]:
            core.add_request(request)
        del waiting[:2]
        for news in core.step():
            output = joined.setdefault(news.request_id, news)
            if output is not news:
                output.new_token_ids += news.new_token_ids
                output.pooled, output.finish_reason, output.error = news.pooled, news.finish_reason, news.error
    scheduler.check_idle()
    return joined
