"""Constrained requests on an asynchronous device, as slow as can be: the answers of a device that waits."""

import overlap_workload as workload
import pytest
from async_device import AsyncDevice
from carrel.models.config import ModelConfig
from carrel.worker.executor import DeviceExecutor
from carrel.worker.loader import load_runner
from carrel.worker.model_runner import ChatRunner
from constrained_workload import PARAMS, constrain


@pytest.mark.parametrize("params", [PARAMS, PARAMS[:3] + PARAMS[4:5]], ids=["forms too", "no forms"])
def test_overlap_changes_no_constrained_answer(tiny_models, monkeypatch, params):
    folder = tiny_models("qwen3")
    constrain(folder, monkeypatch)
    config = ModelConfig.from_folder(folder)
    runner = load_runner(folder, config, device="cpu", dtype="float32", block_size=workload.BLOCK_SIZE)
    assert isinstance(runner, ChatRunner)
    runner.allocate_kv_cache(workload.NUM_BLOCKS)
    executor = DeviceExecutor({"chat": runner})
    expected, _ = workload.answers(executor, params, overlap=False)
    device = AsyncDevice(executor)
    found, stats = workload.answers(device, params, overlap=True)
    assert stats.num_preemptions > 0
    for name, (tokens, end, logprobs) in expected.items():
        assert found[name][:2] == (tokens, end)
        assert found[name][2] == pytest.approx(logprobs, abs=1e-4)
    runner.close()
