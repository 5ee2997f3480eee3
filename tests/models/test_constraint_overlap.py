"""Constraints under overlap scheduling and preemption, on a real model: the answers of steps that wait."""

import overlap_workload as workload
import pytest
from carrel.models.config import ModelConfig
from carrel.worker.device_sampler import DeviceSampler, torch_kernels
from carrel.worker.executor import DeviceExecutor
from carrel.worker.loader import load_runner
from carrel.worker.model_runner import ChatRunner
from carrel.worker.step_limits import StepLimits
from constrained_workload import PARAMS, constrain
from packed_ops import PackedOps, as_on_a_gpu

LIMITS = StepLimits(workload.MAX_NUM_SEQS, workload.MAX_NUM_BATCHED_TOKENS, workload.MAX_MODEL_LEN)


def load(folder):
    runner = load_runner(
        folder, ModelConfig.from_folder(folder), device="cpu", dtype="float32", block_size=workload.BLOCK_SIZE
    )
    assert isinstance(runner, ChatRunner)
    return runner


def test_the_answers_of_steps_that_wait(tiny_models, monkeypatch):
    folder = tiny_models("qwen3")
    constrain(folder, monkeypatch)
    plain, runner = load(folder), as_on_a_gpu(load(folder), PackedOps())
    for each in (plain, runner):
        each.allocate_kv_cache(workload.NUM_BLOCKS)
    runner.prepare(LIMITS)
    runner.sampler = DeviceSampler(runner.stream, workload.MAX_NUM_SEQS, torch_kernels())
    executor = DeviceExecutor({"chat": runner})
    expected, waited = workload.answers(DeviceExecutor({"chat": plain}), PARAMS, overlap=False)
    found, stats = workload.answers(executor, PARAMS, overlap=True)
    assert waited.num_preemptions > 0 and stats.num_preemptions > 0
    for name, (tokens, end, logprobs) in expected.items():
        assert found[name][:2] == (tokens, end)
        assert found[name][2] == pytest.approx(logprobs, abs=1e-4)
    assert not plain.sampler._constraints._kept and not runner.sampler._constraints._kept
