"""One thread for small steps, all of them for large ones."""

import pytest
import torch
from carrel import LLM, SamplingParams
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel_server.step_threads import LEAST_WORK, StepThreads


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


def test_the_engine_tells_each_step_and_sets_nothing(tiny_models, monkeypatch):
    asked, told = [], []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    config = EngineConfig(device="cpu", kv_cache_memory_bytes=1 << 22)
    models = [ModelSpec(name=str(tiny_models("qwen2")))]
    with EngineHost(models, config, before_step=lambda *sizes: told.append(sizes)) as host, LLM(host=host) as llm:
        output = llm.generate("你好", SamplingParams(max_tokens=3, temperature=0, ignore_eos=True), use_tqdm=False)[0]
    num_weights = told[0][1]
    assert told == [(len(output.prompt_token_ids), num_weights), (1, num_weights), (1, num_weights)]
    assert num_weights > 1000 and asked == []
