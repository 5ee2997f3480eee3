"""One thread for small steps, all of them for large ones, and torch as it was when the engine is gone."""

import pytest
import torch
from carrel import LLM, SamplingParams
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel.worker.step_threads import LEAST_WORK, StepThreads


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_small_steps_have_one():
    threads = StepThreads()
    for num_tokens, expected in ((1, 1), (12, 3), (1, 1), (LEAST_WORK, 3)):
        threads.prepare(num_tokens, LEAST_WORK // 10)
        assert torch.get_num_threads() == expected
    threads.prepare(1, 1)
    threads.restore()
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("adapts", [True, False])
def test_an_engine_sets_them_only_when_told(tiny_models, monkeypatch, adapts):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    config = EngineConfig(device="cpu", kv_cache_memory_bytes=1 << 22, adapt_threads=adapts)
    with EngineHost([ModelSpec(name=str(tiny_models("qwen2")))], config) as host, LLM(host=host) as llm:
        llm.generate("你好", SamplingParams(max_tokens=3, temperature=0), use_tqdm=False)
    assert asked == ([1, 3] if adapts else [])
