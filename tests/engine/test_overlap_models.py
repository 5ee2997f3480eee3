"""Overlap on = off on a real model, log probabilities included, whatever is in flight."""

import overlap_workload as workload
import pytest
from async_device import AsyncDevice
from carrel.models.config import ModelConfig
from carrel.worker.executor import DeviceExecutor
from carrel.worker.loader import load_runner
from carrel.worker.model_runner import ChatRunner


@pytest.fixture(scope="module")
def executor(tiny_models):
    folder = tiny_models("qwen3")
    config = ModelConfig.from_folder(folder)
    runner = load_runner(folder, config, device="cpu", dtype="float32", block_size=workload.BLOCK_SIZE)
    assert isinstance(runner, ChatRunner)
    runner.allocate_kv_cache(workload.NUM_BLOCKS)
    yield DeviceExecutor({"chat": runner})
    runner.close()


@pytest.mark.parametrize("params", [workload.PLAIN, workload.PENALISED], ids=["plain", "penalised"])
def test_overlap_changes_no_answer_of_a_model(executor, params):
    expected, _ = workload.answers(executor, params, overlap=False)
    device = AsyncDevice(executor)
    found, stats = workload.answers(device, params, overlap=True)
    assert stats.num_preemptions > 0
    assert device.num_ahead > 5
    assert {end for _, end, _ in expected.values()} == {"stop", "length"}
    for name, (tokens, end, logprobs) in expected.items():
        assert found[name][:2] == (tokens, end)
        assert found[name][2] == pytest.approx(logprobs, abs=1e-4)
