"""The memory plan: bytes add up, caps hold, and what does not fit is refused with numbers."""

import pytest
import torch
from carrel.config import EngineConfig
from carrel.errors import OutOfMemoryError
from carrel.models.config import ModelConfig
from carrel.worker.device_memory import _container_available, available_bytes
from carrel.worker.loader import load_runner
from carrel.worker.memory import plan_memory, share_out
from carrel.worker.step_limits import StepLimits


@pytest.fixture(scope="module")
def runners(tiny_models):
    names = ("qwen2", "mistral", "bert-mean")
    configs = {name: ModelConfig.from_folder(tiny_models(name)) for name in names}
    return {
        name: load_runner(config.folder, config, device="cpu", dtype="auto", block_size=16)
        for name, config in configs.items()
    }


def test_no_more_kv_than_all_sequences_at_full_length_need(runners):
    plan = plan_memory("cpu", runners, EngineConfig(max_num_seqs=4, max_model_len=100))
    assert plan.num_blocks("qwen2") == 4 * 7  # 100 tokens are 7 blocks
    assert plan.num_blocks("mistral") == 28
    assert plan.num_blocks("bert-mean") == 0
    assert plan.caches["qwen2"].max_model_len == 100
    assert plan.total_bytes == plan.weights_bytes + plan.activation_bytes + plan.kv_bytes


def test_the_plan_never_exceeds_the_bytes_it_was_given(runners):
    plan = plan_memory("cpu", runners, EngineConfig(kv_cache_memory_bytes=1_000_000))
    assert 900_000 < plan.kv_bytes <= 1_000_000
    cache = plan.caches["qwen2"]
    assert cache.max_model_len == cache.num_tokens < 2048, "the model's own limit shrinks to what fits"


def test_an_asked_length_that_does_not_fit_is_refused_with_what_to_do(runners):
    config = EngineConfig(kv_cache_memory_bytes=1_000_000, max_model_len=2048)
    with pytest.raises(OutOfMemoryError, match=r"max_model_len=2048 .* lower max_model_len to at most \d+"):
        plan_memory("cpu", runners, config)


def test_more_kv_than_the_machine_has_is_refused(runners):
    with pytest.raises(OutOfMemoryError, match="kv_cache_memory_bytes asks for 1048576"):
        plan_memory("cpu", runners, EngineConfig(kv_cache_memory_bytes=1 << 50))


def test_a_model_may_have_a_limit_of_its_own(runners):
    config = EngineConfig(max_num_seqs=2)
    plan = plan_memory("cpu", runners, config, max_model_lens={"qwen2": 64, "mistral": 32})
    assert plan.num_blocks("qwen2") == 8
    assert plan.num_blocks("mistral") == 4


def test_the_plan_describes_itself(runners):
    text = plan_memory("cpu", runners, EngineConfig(max_num_seqs=4, max_model_len=100)).describe()
    assert "qwen2: 28 blocks of 16 tokens = 448 tokens" in text
    assert "weights" in text
    assert "MiB" in text


def test_what_runners_measure_is_added_up_and_taken_from_the_cache(runners, monkeypatch):
    config = EngineConfig(max_num_seqs=4, max_model_len=100)
    asked = {}
    for name, runner in runners.items():
        monkeypatch.setattr(
            runner, "measured_bytes", lambda limits, *, name=name, **_: asked.update({name: limits}) or 7
        )
    plan = plan_memory("cpu", runners, config)
    assert plan.activation_bytes == 3 * 7
    assert asked["qwen2"] == StepLimits(4, config.step_tokens, 100)
    assert asked["bert-mean"].max_model_len == runners["bert-mean"].config.max_positions


def test_a_largest_step_that_does_not_fit_is_refused_with_what_to_do(runners, monkeypatch):
    def fail(limits, **_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    monkeypatch.setattr(runners["qwen2"], "measured_bytes", fail)
    with pytest.raises(OutOfMemoryError, match=r"2048 tokens of qwen2 does not fit .* lower max_num_batched_tokens"):
        plan_memory("cpu", runners, EngineConfig())


def test_shares_are_equal_but_none_takes_more_than_it_needs():
    assert share_out(90, {"a": 10, "b": 100, "c": 100}) == {"a": 10, "b": 40, "c": 40}
    assert share_out(100, {}) == {}


def test_a_container_limit_counts(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert _container_available(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_available(tmp_path) is None
    assert available_bytes() > 0
