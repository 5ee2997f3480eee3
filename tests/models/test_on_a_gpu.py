"""What only a GPU can tell: graphs = eager, overlap = not, and measured memory that holds.

``TRITON_INTERPRET=0 pytest -m gpu tests/models`` where there is one.
"""

import os

import pytest
import torch
from carrel.config import EngineConfig
from carrel.models.config import ModelConfig
from carrel.worker.cuda_runner import CudaChatRunner
from carrel.worker.largest_step import chat_steps, num_blocks, pooling_steps
from carrel.worker.loader import load_runner
from carrel.worker.measured_memory import measure_peak
from carrel.worker.memory import plan_memory, step_limits
from carrel.worker.model_runner import ChatRunner, ModelRunner
from carrel.worker.step_limits import StepLimits
from driving import BLOCK_SIZE, NUM_BLOCKS, Driver, chat_request, random_ids
from mixed_work import LIMITS, run, work
from mixed_work import NUM_BLOCKS as FEW_BLOCKS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1",
        reason="needs a GPU, and TRITON_INTERPRET=0",
    ),
]


def open_on_gpu(folder, *, dtype: str = "bfloat16", blocks: int = NUM_BLOCKS) -> ModelRunner:
    runner = load_runner(folder, ModelConfig.from_folder(folder), device="cuda", dtype=dtype, block_size=BLOCK_SIZE)
    if isinstance(runner, ChatRunner) and blocks:
        runner.allocate_kv_cache(blocks)
    return runner


def logits_of_decodes(runner: ModelRunner, monkeypatch) -> list[torch.Tensor]:
    """Of prompts and one decode step, in every batch size."""
    seen: list[torch.Tensor] = []
    logits = runner.model.logits

    def kept(hidden):
        out = logits(hidden)
        seen.append(out.float().cpu())
        return out

    monkeypatch.setattr(runner.model, "logits", kept)
    for count in range(1, 21):
        ids = [random_ids(3 + index, seed=index) for index in range(count)]
        requests = [chat_request(row, f"{count}-{index}") for index, row in enumerate(ids)]
        driver = Driver(runner)
        driver.step(*[(request, request.num_tokens) for request in requests])
        for request, token in zip(requests, random_ids(count, seed=count), strict=True):
            request.output_token_ids = [token]  # both runs go on with the same ones
        driver.step(*[(request, 1) for request in requests])
        runner.release([request.request_id for request in requests])
    return seen


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral", "llama-yarn"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_are_eager(tiny_models, monkeypatch, name, dtype):
    limits = StepLimits(max_num_seqs=20, max_num_batched_tokens=2048, max_model_len=160)
    found = []
    for enforce_eager in (True, False):
        runner = open_on_gpu(tiny_models(name), dtype=dtype)
        assert isinstance(runner, CudaChatRunner)
        runner.prepare(limits, enforce_eager=enforce_eager)
        assert bool(runner.graphs.sizes) != enforce_eager
        found.append(logits_of_decodes(runner, monkeypatch))
        runner.close()
    tolerance = 1e-4 if dtype == "float32" else 5e-2
    for eager, graph in zip(*found, strict=True):
        torch.testing.assert_close(graph, eager, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("seed", range(6))
def test_overlap_changes_no_answer(tiny_models, seed):
    runners = {"model": open_on_gpu(tiny_models("qwen3"), dtype="float32", blocks=FEW_BLOCKS)}
    runners["embedder"] = open_on_gpu(tiny_models("bert-mean"), dtype="float32")
    for runner in runners.values():
        runner.prepare(LIMITS)
    answers = [run(runners, work(seed), overlap=overlap) for overlap in (False, True)]
    tokens = [{name: output.new_token_ids for name, output in outputs.items()} for outputs in answers]
    assert tokens[0] == tokens[1]


def test_two_steps_in_flight_use_their_own_staging(tiny_models):
    """A hundred decode steps, each submitted before the last one is waited for."""
    runner = open_on_gpu(tiny_models("qwen2"), dtype="float32")
    runner.prepare(StepLimits(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=160))
    waited, ahead = (chat_request(random_ids(9), name) for name in ("waited", "ahead"))
    driver = Driver(runner)
    driver.generate([waited], 100)
    tokens, before = [], runner.submit([driver.schedule(ahead, 9)])
    for position in range(9, 108):
        ahead.num_computed_tokens = position
        item = driver.schedule(ahead, 1)
        item.samples = item.input_on_device = True
        pending = runner.submit([item])
        tokens += before.wait()[0].token_ids
        before = pending
    tokens += before.wait()[0].token_ids
    assert tokens == waited.output_token_ids


@pytest.mark.parametrize("name", ["qwen3", "bert-mean"])
def test_measured_memory_holds(tiny_models, name):
    limits = StepLimits(max_num_seqs=64, max_num_batched_tokens=4096, max_model_len=256)
    runner = open_on_gpu(tiny_models(name), blocks=0)
    measured = runner.measured_bytes(limits)
    steps = pooling_steps(limits)
    if isinstance(runner, ChatRunner):
        runner.allocate_kv_cache(num_blocks(limits, BLOCK_SIZE))
        steps = chat_steps(limits, BLOCK_SIZE)

    def prepare_and_run():
        runner.prepare(limits)
        for items in steps:
            runner.execute(items)

    assert measured is not None
    assert 0 < measure_peak(torch.device("cuda"), prepare_and_run) <= 1.05 * measured
    runner.close()


def test_the_plan_leaves_room_for_what_was_measured(tiny_models):
    config = EngineConfig(device="cuda", max_num_seqs=16, gpu_memory_utilization=0.5, block_size=BLOCK_SIZE)
    runner = open_on_gpu(tiny_models("qwen3"), blocks=0)
    plan = plan_memory("cuda", {"chat": runner}, config)
    assert isinstance(runner, ChatRunner)
    runner.allocate_kv_cache(plan.num_blocks("chat"))
    runner.prepare(step_limits(config, plan.caches["chat"].max_model_len))
    free, total = torch.cuda.mem_get_info()
    assert total - free <= 0.5 * total + (256 << 20)
    runner.close()
