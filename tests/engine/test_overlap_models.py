"""Overlap on = off on real models: the answers, log probabilities included, are the same whatever is in flight."""

import random

import pytest
from async_device import AsyncDevice
from carrel.core import EngineCore
from carrel.kv_cache import KVCacheManager
from carrel.models.config import ModelConfig
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.scheduler import Scheduler
from carrel.worker.executor import DeviceExecutor
from carrel.worker.loader import load_runner
from carrel.worker.model_runner import ChatRunner

BLOCK_SIZE, NUM_BLOCKS = 8, 9

PARAMS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "logprobs": 3},
    {"temperature": 1.0, "min_tokens": 6, "stop_token_ids": list(range(100))},
    {"temperature": 1.0, "stop_token_ids": list(range(60))},
]
PENALISED = {"temperature": 0.7, "presence_penalty": 1.0, "repetition_penalty": 1.2}


@pytest.fixture(scope="module")
def executor(tiny_models):
    folder = tiny_models("qwen3")
    config = ModelConfig.from_folder(folder)
    runner = load_runner(folder, config, device="cpu", dtype="float32", block_size=BLOCK_SIZE)
    assert isinstance(runner, ChatRunner)
    runner.allocate_kv_cache(NUM_BLOCKS)
    yield DeviceExecutor({"chat": runner})
    runner.close()


def requests(params):
    numbers = random.Random(0)
    for index in range(12):
        prompt = [numbers.randrange(5, 300) for _ in range(numbers.choice([1, 5, 8, 30]))]
        sampling = SamplingParams(max_tokens=20, **params[index % len(params)])
        yield Request(str(index), "chat", prompt, sampling_params=sampling, max_tokens=4 + index, seed=index)


def answers(executor, overlap, params):
    """{request id: (tokens, finish reason, logprobs)}, and how many requests gave way."""
    kv_cache = KVCacheManager(NUM_BLOCKS, BLOCK_SIZE, enable_caching=True, max_model_len=100)
    scheduler = Scheduler({"chat": kv_cache}, max_num_seqs=8, max_num_batched_tokens=40)
    core = EngineCore(scheduler, executor, overlap=overlap)
    for request in requests(params):
        core.add_request(request)
    outputs = []
    while core.has_work:
        outputs += core.step()
    scheduler.check_idle()
    found = {}
    for output in outputs:
        tokens, logprobs = found.setdefault(output.request_id, ([], []))
        tokens += output.new_token_ids
        logprobs += [value for entry in output.logprobs or [] for value in entry.logprobs]
    ends = {output.request_id: output.finish_reason for output in outputs if output.finished}
    return {name: (tokens, ends[name], logprobs) for name, (tokens, logprobs) in found.items()}, scheduler.stats()


@pytest.mark.parametrize("params", [PARAMS, [*PARAMS, PENALISED]], ids=["ahead", "penalised"])
def test_overlap_changes_no_answer_of_a_model(executor, params):
    expected, _ = answers(executor, False, params)
    device = AsyncDevice(executor)
    found, stats = answers(device, True, params)
    assert stats.num_preemptions > 0
    assert device.num_ahead > 5
    assert {end for _, end, _ in expected.values()} == {"stop", "length"}
    for name, (tokens, end, logprobs) in expected.items():
        assert found[name][:2] == (tokens, end)
        assert found[name][2] == pytest.approx(logprobs, abs=1e-4)
