"""A caller that leaves: whatever it asked for, its requests are in one more step at most, and hold nothing then."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest
from carrel import LLM, AsyncLLM, BeamSearchParams, SamplingParams
from carrel.params import RequestOutputKind
from small_engine import SMALL

LONG = SamplingParams(temperature=0.0, max_tokens=1500, ignore_eos=True)
AT_END = replace(LONG, output_kind=RequestOutputKind.FINAL_ONLY)
TEXT = "图书馆的阅览室里有一张小书桌。" * 6
TEXTS = [f"{TEXT}{i}" for i in range(200)]


async def read(outputs) -> None:
    async for _ in outputs:
        pass


WORK = {
    "stream": lambda llm: read(llm.generate(TEXT, LONG)),
    "chat": lambda llm: read(llm.chat([{"role": "user", "content": TEXT}], LONG)),
    "plain": lambda llm: read(llm.generate(TEXT, AT_END)),
    "several": lambda llm: read(llm.generate(TEXT, replace(LONG, n=4))),
    "best of": lambda llm: read(llm.generate(TEXT, replace(AT_END, n=1, best_of=4))),
    "prompt": lambda llm: read(llm.generate(TEXT * 8, replace(LONG, prompt_logprobs=3))),
    "beams": lambda llm: read(llm.beam_search(TEXT, BeamSearchParams(beam_width=4, max_tokens=1000, ignore_eos=True))),
    "embed": lambda llm: llm.embed(TEXTS),
    "score": lambda llm: llm.score("书", TEXTS, model="reranker"),
    "rerank": lambda llm: llm.rerank("书", TEXTS, model="reranker"),
    "classify": lambda llm: llm.classify(TEXTS),
    "encode": lambda llm: llm.encode(TEXTS, model="embedder"),
}


class Watch:
    """Which requests are in which step, and the moment at which somebody left."""

    def __init__(self, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scheduler = llm.host.loop._core._scheduler
        self.steps: list[set[str] | None] = []  # None: somebody left
        schedule = self.scheduler.schedule

        def watched():
            output = schedule()
            self.steps.append({item.request.request_id for batch in output.batches for item in batch.requests})
            return output

        monkeypatch.setattr(self.scheduler, "schedule", watched)

    async def steps_after(self, count: int) -> list[set[str]]:
        """The next so many steps since somebody left."""
        while len(self.steps) - self.steps.index(None) <= count:
            await asyncio.sleep(0.001)
        return [step for step in self.steps[self.steps.index(None) :] if step is not None]

    @property
    def num_held_blocks(self) -> int:
        caches = self.scheduler.stats().kv_caches.values()
        return sum(cache.num_blocks - cache.num_free_blocks for cache in caches)


@pytest.fixture(scope="module")
def llm(tiny_models) -> Iterator[LLM]:
    from carrel import EngineConfig, EngineHost, ModelSpec

    specs = [
        ModelSpec(name=str(tiny_models(folder)), served_model_name=(name,))
        for folder, name in [("qwen2", "chat"), ("bert-mean", "embedder"), ("bert-reranker", "reranker")]
    ]
    with EngineHost(specs, EngineConfig(**SMALL, max_num_batched_tokens=128)) as host:
        yield LLM(host=host)


async def leave(llm: LLM, name: str, watch: Watch) -> None:
    """Beside a stream that goes on; leave when the work is under way."""
    async with AsyncLLM(host=llm.host) as face, aclosing(face.generate("书", LONG, request_id="goes on")) as going_on:
        await anext(going_on)
        task = asyncio.ensure_future(WORK[name](face))
        while not watch.steps or not watch.steps[-1] - {"goes on"}:
            assert not task.done(), "the work is too short to be left"
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        watch.steps.append(None)
        later = await watch.steps_after(6)
        assert [step - {"goes on"} for step in later[1:]] == [set()] * len(later[1:])
        assert all("goes on" in step for step in later)
        assert llm.host.loop.stats().num_open == 1
        assert await anext(going_on)


@pytest.mark.parametrize("name", WORK)
def test_it_is_gone_within_one_step(llm, monkeypatch, name):
    watch = Watch(llm, monkeypatch)
    asyncio.run(leave(llm, name, watch))
    asyncio.run(asyncio.wait_for(until_idle(llm), 5))
    assert watch.num_held_blocks == 0
    watch.scheduler.check_idle()
    assert not watch.scheduler._prompt_logprobs


async def until_idle(llm: LLM) -> None:
    while llm.host.loop.stats().num_open:
        await asyncio.sleep(0.001)


def test_a_sync_caller_that_is_interrupted(llm, monkeypatch):
    """An exception in the thread that waits, as Ctrl+C is one."""
    watch = Watch(llm, monkeypatch)
    stream = llm.stream(TEXT, LONG)
    next(stream)
    stream.close()
    rounds = iter(range(3))

    def interrupt(self, jobs, results):
        if next(rounds) == 2:
            raise KeyboardInterrupt

    from carrel.beam_search import BeamSearch

    monkeypatch.setattr(BeamSearch, "_is_decided", lambda self: False)
    monkeypatch.setattr(BeamSearch, "advance", interrupt)
    before = llm.host.stats().requests.get(("chat", "abort"), 0)
    with pytest.raises(KeyboardInterrupt):
        llm.beam_search(TEXT, BeamSearchParams(beam_width=2, max_tokens=9))
    asyncio.run(asyncio.wait_for(until_idle(llm), 5))
    assert watch.num_held_blocks == 0
    assert llm.host.stats().requests["chat", "abort"] == before + 1
