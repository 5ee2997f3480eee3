"""Opening, sharing and closing: nothing hangs, nothing stays behind, nobody's engine is closed by somebody else."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from carrel import LLM, AsyncLLM, EngineConfig, EngineHost, ModelSpec, SamplingParams
from carrel.errors import EngineClosedError, InvalidParamsError, ModelError, StepError
from carrel.host_registry import HostRegistry
from small_engine import SMALL

LONG = SamplingParams(temperature=0.0, max_tokens=1500, ignore_eos=True)


def engine_threads() -> int:
    return sum(thread.name == "carrel-engine" for thread in threading.enumerate())


def test_close_during_work_ends_every_call_with_an_error(tiny_models):
    llm = LLM(str(tiny_models("qwen2")), embedding_model=str(tiny_models("bert-mean")), **SMALL)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(llm.generate, ["图书馆"] * 8, LONG, use_tqdm=False) for _ in range(4)]
        calls += [pool.submit(llm.embed, ["图书馆" * 80] * 900, use_tqdm=False) for _ in range(2)]
        stream = llm.stream("图书馆", LONG)
        next(stream)
        while llm.host.loop.stats().num_open < 200:
            time.sleep(0.001)
        llm.close()
        for call in calls:
            with pytest.raises(EngineClosedError):
                call.result(timeout=60)
        with pytest.raises(EngineClosedError):
            list(stream)


def test_every_call_after_close_is_refused(tiny_models):
    llm = LLM(str(tiny_models("qwen2")), **SMALL)
    llm.close()
    llm.close()
    for call in (
        lambda: llm.generate("a"),
        lambda: llm.chat([{"role": "user", "content": "a"}]),
        lambda: llm.stream("a"),
        lambda: llm.embed("a"),
        lambda: llm.score("a", "b"),
        lambda: llm.rerank("a", ["b"]),
        llm.get_tokenizer,
    ):
        with pytest.raises(EngineClosedError, match="closed"):
            call()


def test_a_shared_host_stays_open(tiny_models):
    with EngineHost([ModelSpec(name=str(tiny_models("qwen2")))], EngineConfig(**SMALL)) as host:
        with LLM(host=host) as first:
            first.generate("a", use_tqdm=False)
        AsyncLLM(host=host).close()
        assert host.is_alive
        with pytest.raises(InvalidParamsError, match="nothing else beside it"):
            LLM("starter/reader", host=host)
        with pytest.raises(InvalidParamsError, match="nothing else beside it"):
            LLM(host=host, max_num_seqs=4)
    assert not host.is_alive
    host.close()
    with pytest.raises(EngineClosedError):
        LLM(host=host)


def test_the_same_models_and_options_are_loaded_once(tiny_models):
    folder = str(tiny_models("qwen2"))
    first, second = LLM(folder, **SMALL), AsyncLLM(folder, **SMALL)
    other = LLM(folder, seed=1, **SMALL)
    assert first.host is second.host
    assert other.host is not first.host
    first.close()
    first.close()
    assert second.host.is_alive
    second.close()
    assert not second.host.is_alive
    assert other.host.is_alive
    other.close()
    again = LLM(folder, **SMALL)
    assert again.host is not first.host
    again.close()


def test_threads_that_ask_at_once_share_one_load(tiny_models):
    registry, specs, config = HostRegistry(), [ModelSpec(name=str(tiny_models("qwen2")))], EngineConfig(**SMALL)
    with ThreadPoolExecutor(8) as pool:
        hosts = list(pool.map(lambda _: registry.acquire(specs, config), range(8)))
    assert len({id(host) for host in hosts}) == len(registry) == 1
    for i, host in enumerate(hosts):
        assert host.is_alive, i
        registry.release(host)
    assert not hosts[0].is_alive
    assert len(registry) == 0
    registry.release(hosts[0])  # once too often does no harm


def test_a_failed_load_leaves_nothing_in_the_registry(tmp_path, tiny_models):
    registry = HostRegistry()
    (tmp_path / "config.json").write_text((tiny_models("qwen2") / "config.json").read_text())
    for _ in range(2):
        with pytest.raises(ModelError):
            registry.acquire([ModelSpec(name=str(tmp_path))])
        assert len(registry) == 0


def test_a_dead_host_is_not_handed_out_again(tiny_models):
    registry, specs, config = HostRegistry(), [ModelSpec(name=str(tiny_models("qwen2")))], EngineConfig(**SMALL)
    dead = registry.acquire(specs, config)
    dead.close()
    fresh = registry.acquire(specs, config)
    assert fresh is not dead
    assert fresh.is_alive
    registry.release(dead)
    assert fresh.is_alive
    registry.release(fresh)
    assert not fresh.is_alive


def test_short_names_are_kept_only_if_they_mean_one_model(tiny_models, tmp_path):
    for part, name in (("chat", "qwen2"), ("vectors", "bert-mean")):
        shutil.copytree(tiny_models(name), tmp_path / part / "模型")
    chat, vectors = str(tmp_path / "chat" / "模型"), str(tmp_path / "vectors" / "模型")
    with LLM(chat, embedding_model=vectors, **SMALL) as llm:
        assert [model.names for model in llm.host.models.values()] == [(chat,), (vectors,)]
    with LLM(chat, **SMALL) as llm:
        assert llm.host.get("模型", "chat").names == (chat, "模型")


def test_notebook_cells_that_open_and_close_leave_nothing(tiny_models):
    threads = engine_threads()
    gone = []
    for _ in range(5):
        with LLM(str(tiny_models("qwen2")), **SMALL) as llm:
            llm.generate("图书馆", use_tqdm=False)
            gone.append(weakref.ref(llm.host))
        assert engine_threads() == threads
    del llm
    gc.collect()
    assert [host() for host in gone] == [None] * 5


def test_a_model_that_fails_on_a_step_fails_that_call_only(tiny_models, monkeypatch):
    with LLM(str(tiny_models("qwen2")), embedding_model=str(tiny_models("bert-mean")), **SMALL) as llm:
        runner = llm.host._executor.runners[llm.host.get(None, "embedding").runner_key]

        def fail(requests):
            raise RuntimeError("the device is on fire")

        with monkeypatch.context() as patch:
            patch.setattr(runner, "execute", fail)
            with pytest.raises(StepError, match="on fire"):
                llm.embed(["a", "b"], use_tqdm=False)
        assert llm.host.stats().requests[llm.host.get(None, "embedding").key, "error"] >= 1
        assert len(llm.embed(["a", "b"], use_tqdm=False)) == 2
        assert llm.host.loop.stats().num_open == 0


def test_one_wrong_input_ends_the_call_and_not_the_engine(llm):
    with pytest.raises(ValueError, match="no token id"):
        llm.embed([[5], [10**6]], use_tqdm=False)
    assert llm.host.loop.stats().num_open == 0
    assert llm.embed([[5]], use_tqdm=False)


@pytest.mark.parametrize("num_read", [0, 1])
def test_closing_a_stream_aborts_its_request(llm, num_read):
    ended = (llm.host.get(None, "chat").key, "abort")
    before = llm.host.stats().requests.get(ended, 0)
    stream = llm.stream("图书馆", LONG)
    for _ in range(num_read):
        next(stream)
    stream.close()
    assert llm.host.stats().requests[ended] == before + 1
    for _ in range(50):  # so many steps are sooner over than 1500 tokens are made
        if llm.host.loop.stats().num_open == 0:
            return
        time.sleep(0.01)
    pytest.fail("the request was not aborted")


def test_long_work_shows_a_progress_bar_and_short_work_none(llm, monkeypatch, capfd):
    llm.embed(["甲"] * 10)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("carrel.llm.LONG_WORK", 0.0)
    llm.embed(["甲"] * 10, use_tqdm=False)
    assert capfd.readouterr().err == ""
    llm.embed(["甲"] * 10)
    assert "10/10" in capfd.readouterr().err
