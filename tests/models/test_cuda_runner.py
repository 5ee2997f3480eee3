"""The GPU's runner on a CPU: padded, static, asynchronous steps give what the plain runner gives."""

from collections.abc import Callable

import pytest
import torch
from carrel.models.config import ModelConfig
from carrel.request import Request
from carrel.worker.cuda_graph import graph_sizes
from carrel.worker.cuda_runner import CudaChatRunner
from carrel.worker.loader import load_runner
from carrel.worker.step_limits import StepLimits
from carrel.worker.warm_up import chat_warm_ups
from driving import BLOCK_SIZE, NUM_BLOCKS, Driver, chat_request, open_runner, random_ids
from packed_ops import PackedOps, as_on_a_gpu

LIMITS = StepLimits(max_num_seqs=9, max_num_batched_tokens=200, max_model_len=160)


def record(body: Callable[[], None]) -> Callable[[], None]:
    """In place of a capture: the static body itself, run again for each replay."""
    body()
    return body


def open_cuda_runner(folder, *, capture=record, limits: StepLimits = LIMITS) -> CudaChatRunner:
    plain = load_runner(folder, ModelConfig.from_folder(folder), device="cpu", dtype="float32", block_size=BLOCK_SIZE)
    runner = as_on_a_gpu(plain, PackedOps())
    assert isinstance(runner, CudaChatRunner)
    runner.allocate_kv_cache(NUM_BLOCKS)
    runner.prepare(limits, capture=capture)
    return runner


def requests_of(count: int, **params: object) -> list[Request]:
    return [chat_request(random_ids(3 + 5 * i, seed=i), f"r{i}", seed=i, **params) for i in range(count)]


def keep_logits(runner, monkeypatch) -> list[torch.Tensor]:
    """What the runner samples from, step by step."""
    seen: list[torch.Tensor] = []
    logits = runner.model.logits

    def kept(hidden):
        seen.append(logits(hidden))
        return seen[-1]

    monkeypatch.setattr(runner.model, "logits", kept)
    return seen


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral"])
def test_static_padded_decode_equals_the_plain_runner(tiny_models, monkeypatch, name):
    plain, static = open_runner(tiny_models(name), dtype="float32"), open_cuda_runner(tiny_models(name))
    assert static.graphs.sizes == graph_sizes(9) == [1, 2, 4, 8, 9]
    expected, got = keep_logits(plain, monkeypatch), keep_logits(static, monkeypatch)
    for count in range(1, 10):  # every padding of every size
        tokens = Driver(plain).generate(requests_of(count), 4)
        assert Driver(static).generate(requests_of(count), 4) == tokens
    for plain_logits, static_logits in zip(expected, got, strict=True):
        torch.testing.assert_close(static_logits, plain_logits, atol=1e-4, rtol=1e-4)


def test_only_decode_steps_that_fit_are_replayed(tiny_models, monkeypatch):
    runner = open_cuda_runner(tiny_models("qwen2"))
    replayed: list[int] = []
    replay = runner.graphs.replay

    def counted(size):
        replayed.append(size)
        replay(size)

    monkeypatch.setattr(runner.graphs, "replay", counted)
    driver, requests = Driver(runner), requests_of(5)
    driver.step(*[(request, request.num_tokens) for request in requests])
    assert replayed == []
    driver.step(*[(request, 1) for request in requests[:3]])
    assert replayed == [4]
    driver.step((requests[0], 1), (chat_request([5, 6], "new"), 2))
    assert replayed == [4]


def test_chunks_prefixes_and_mixed_steps_equal_the_plain_runner(tiny_models):
    runners = [open_runner(tiny_models("qwen3"), dtype="float32"), open_cuda_runner(tiny_models("qwen3"))]
    outputs = []
    for runner in runners:
        driver = Driver(runner)
        a, b, c = (chat_request(random_ids(n, seed=n), f"r{n}", temperature=0.9, seed=n) for n in (30, 41, 17))
        driver.step((a, 30))
        driver.step((a, 1), (b, 16))
        driver.step((a, 1), (b, 1), (c, 17))  # a chunk of one token does not sample
        driver.step((a, 1), (c, 1), (b, 24))
        driver.step((a, 1), (c, 1), (b, 1))
        outputs.append([request.output_token_ids for request in (a, b, c)])
    assert outputs[0] == outputs[1]
    assert [len(ids) for ids in outputs[0]] == [5, 2, 3]


def test_a_capture_that_fails_leaves_eager_steps_and_one_warning(tiny_models, caplog):
    def fail(body):
        raise RuntimeError("operation not permitted when stream is capturing")

    runner = open_cuda_runner(tiny_models("qwen2"), capture=fail)
    assert runner.graphs.sizes == []
    assert [record.message for record in caplog.records] == [
        "CUDA graphs are off, decoding will be slower: the capture for 9 sequences failed: "
        "operation not permitted when stream is capturing"
    ]
    plain = open_runner(tiny_models("qwen2"), dtype="float32")
    assert Driver(runner).generate(requests_of(3), 3) == Driver(plain).generate(requests_of(3), 3)


def test_logits_that_are_not_finite_fail_their_row_and_leave_a_token(tiny_models, monkeypatch):
    runner = open_cuda_runner(tiny_models("qwen2"))
    logits = runner.model.logits
    monkeypatch.setattr(runner.model, "logits", lambda x: logits(x).index_fill(0, torch.tensor([1]), torch.nan))
    driver, requests = Driver(runner), requests_of(3)
    results = driver.step(*[(request, request.num_tokens) for request in requests])
    assert [result.error is not None for result in results] == [False, True, False]
    assert [len(result.token_ids) for result in results] == [1, 0, 1]
    assert all(0 <= token < 600 for token in runner.inputs.last_tokens.tolist())


def test_a_closed_runner_holds_nothing(tiny_models):
    runner = open_cuda_runner(tiny_models("qwen2"))
    runner.close()
    runner.close()
    assert runner.graphs.sizes == []
    assert runner.caches == []


def test_warming_up_leaves_no_trace_but_in_the_cache(tiny_models):
    runner = open_cuda_runner(tiny_models("qwen3"))
    runner.warm_up()
    plain = open_runner(tiny_models("qwen3"), dtype="float32")
    assert Driver(runner).generate(requests_of(4), 4) == Driver(plain).generate(requests_of(4), 4)


def test_warm_ups_keep_to_the_limits():
    for limits in (LIMITS, StepLimits(1, 2, 5), StepLimits(256, 8192, 40960)):
        steps = chat_warm_ups(limits, BLOCK_SIZE, num_blocks=4)
        for items in steps:
            assert len(items) <= limits.max_num_seqs
            assert sum(item.num_scheduled_tokens for item in items) <= limits.max_tokens
            assert all(item.num_tokens <= limits.max_model_len for item in items)
            assert all(block < 4 for item in items for block in item.block_table)
    assert len(chat_warm_ups(StepLimits(256, 8192, 40960), 16, num_blocks=1000)) == 24
