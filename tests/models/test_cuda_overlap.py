"""The GPU's runner under overlap scheduling, on a CPU: the plain runner's answers in steps that wait."""

import overlap_workload as workload
import pytest
from carrel.models.config import ModelConfig
from carrel.worker.executor import DeviceExecutor
from carrel.worker.loader import load_runner
from carrel.worker.model_runner import ChatRunner
from carrel.worker.step_limits import StepLimits
from packed_ops import PackedOps, as_on_a_gpu

LIMITS = StepLimits(workload.MAX_NUM_SEQS, workload.MAX_NUM_BATCHED_TOKENS, workload.MAX_MODEL_LEN)


def load(folder):
    runner = load_runner(
        folder, ModelConfig.from_folder(folder), device="cpu", dtype="float32", block_size=workload.BLOCK_SIZE
    )
    assert isinstance(runner, ChatRunner)
    return runner


def replay(body):
    """In place of a capture: the static body itself, run again for each replay."""
    body()
    return body


def count_rows_ahead(runner):
    """A list that gets, at each step, the number of rows whose input the host does not know."""
    num_ahead, stage = [], runner.inputs.stage

    def counted(items, **options):
        num_ahead.append(sum(item.input_on_device for item in items))
        return stage(items, **options)

    runner.inputs.stage = counted
    return num_ahead


@pytest.mark.parametrize("params", [workload.PLAIN, workload.PENALISED], ids=["plain", "penalised"])
@pytest.mark.parametrize("capture", [None, replay], ids=["eager", "static"])
def test_the_asynchronous_runner_gives_the_answers_of_the_plain_one(tiny_models, params, capture):
    plain, runner = load(tiny_models("qwen3")), as_on_a_gpu(load(tiny_models("qwen3")), PackedOps())
    for each in (plain, runner):
        each.allocate_kv_cache(workload.NUM_BLOCKS)
    runner.prepare(LIMITS, capture=capture)
    executor = DeviceExecutor({"chat": runner})
    assert executor.is_asynchronous
    num_ahead = count_rows_ahead(runner)
    expected, _ = workload.answers(DeviceExecutor({"chat": plain}), params, overlap=False)
    found, stats = workload.answers(executor, params, overlap=True)
    assert stats.num_preemptions > 0
    assert sum(num_ahead) > 20
    for name, (tokens, end, logprobs) in expected.items():
        assert found[name][:2] == (tokens, end)
        assert found[name][2] == pytest.approx(logprobs, abs=1e-4)
