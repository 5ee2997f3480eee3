"""Constraints under overlap scheduling and preemption, on a real model: the answers of steps that wait."""

import overlap_workload as workload
import pytest
from carrel.models.config import ModelConfig
from carrel.structured_output import GrammarCompiler, response_lark
from carrel.structured_params import StructuredOutputsParams
from carrel.tokenizer import Tokenizer
from carrel.worker.device_sampler import DeviceSampler, torch_kernels
from carrel.worker.executor import DeviceExecutor
from carrel.worker.loader import load_runner
from carrel.worker.model_runner import ChatRunner
from carrel.worker.step_limits import StepLimits
from packed_ops import PackedOps, as_on_a_gpu

LIMITS = StepLimits(workload.MAX_NUM_SEQS, workload.MAX_NUM_BATCHED_TOKENS, workload.MAX_MODEL_LEN)
FORMS = [
    {"json": {"type": "array", "items": {"enum": ["新", "旧", 12]}, "minItems": 5}},
    {"regex": r"[a-f]{20,40}\d"},
    {"substrings_of": ["检索增强生成把文档和模型结合起来", "the quick brown fox"]},
]
PARAMS = [
    {"temperature": 1.0, "logprobs": 2},
    {"temperature": 1.0},
    {"temperature": 0.0, "logit_bias": {7: 5.0, 9: -100.0}},
    {"temperature": 1.0, "structured_outputs": 0, "logprobs": 3},
    {"temperature": 0.8, "allowed_token_ids": list(range(20, 60))},
    {"temperature": 1.0, "structured_outputs": 1, "min_tokens": 4},
    {"temperature": 0.0, "structured_outputs": 2},
]


def load(folder):
    runner = load_runner(
        folder, ModelConfig.from_folder(folder), device="cpu", dtype="float32", block_size=workload.BLOCK_SIZE
    )
    assert isinstance(runner, ChatRunner)
    return runner


@pytest.fixture
def constrained(tiny_models, monkeypatch):
    """The folder of a model; the workload's requests get their grammars."""
    folder = tiny_models("qwen3")
    tokenizer, ends = Tokenizer.from_folder(folder), frozenset({0, 2})
    compiler = GrammarCompiler(tokenizer, ModelConfig.from_folder(folder).vocab_size, ends)
    plain = workload.requests

    def requests(params):
        forms = [values.get("structured_outputs") for values in params]
        bare = [{key: value for key, value in values.items() if key != "structured_outputs"} for values in params]
        for index, request in enumerate(plain(bare)):
            form = forms[index % len(forms)]
            request.max_tokens = 20  # so long that some give way
            if form is not None:
                request.eos_token_ids = request.end_token_ids = ends
                request.grammar = compiler.compile(response_lark(StructuredOutputsParams(**FORMS[form])))
            if index % 5 == 1:
                request.bad_words_token_ids = ((40,), (41, 42))
            yield request

    monkeypatch.setattr(workload, "requests", requests)
    return folder


def test_the_answers_of_steps_that_wait(constrained):
    plain, runner = load(constrained), as_on_a_gpu(load(constrained), PackedOps())
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
