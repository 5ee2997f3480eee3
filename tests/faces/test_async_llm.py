"""The async face: the same answers, cancellation that reaches the engine, any number of event loops and threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
from carrel import LLM, AsyncLLM, SamplingParams
from carrel.errors import ContextLengthError, EngineClosedError
from carrel.params import RequestOutputKind

GREEDY = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
LONG = SamplingParams(temperature=0.0, max_tokens=1500, ignore_eos=True)
MESSAGES = [{"role": "user", "content": "可以借几本书?"}]


@pytest.fixture
def async_llm(llm):
    shared = AsyncLLM(host=llm.host)
    yield shared
    shared.close()


async def last(outputs):
    async for output in outputs:
        final = output
    return final


async def idle(llm, seconds: float = 5.0) -> bool:
    """True once the engine has no open request."""
    for _ in range(int(seconds / 0.01)):
        if llm.host.loop.stats().num_open == 0:
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("sync", "twin"),
    [("stream", "generate"), ("stream_chat", "chat"), ("chat", "chat")]
    + [
        (name, name)
        for name in ("embed", "classify", "encode", "score", "rerank", "get_tokenizer", "close", "__init__")
    ],
)
def test_each_sync_method_has_its_async_twin(sync, twin):
    """The same parameters with the same defaults, but for what has a meaning in one world only."""
    ours = dict(inspect.signature(getattr(LLM, sync)).parameters)
    theirs = dict(inspect.signature(getattr(AsyncLLM, twin)).parameters)
    for name in ("use_tqdm", "request_id", "priority", "cache_salt"):
        ours.pop(name, None)
        theirs.pop(name, None)
    if sync == "chat":  # one conversation or many, one set of parameters or many
        ours = {name: p.replace(annotation=theirs[name].annotation) for name, p in ours.items()}
    assert ours == theirs


async def test_the_same_answers_as_the_sync_face(llm, async_llm):
    expected = llm.generate("图书馆", GREEDY, use_tqdm=False)[0].outputs[0]
    assert (await last(async_llm.generate("图书馆", GREEDY))).outputs[0] == expected
    assert (await last(async_llm.chat(MESSAGES, GREEDY))).outputs[0] == llm.chat(MESSAGES, GREEDY, use_tqdm=False)[
        0
    ].outputs[0]
    deltas = async_llm.generate("图书馆", replace(GREEDY, output_kind=RequestOutputKind.DELTA))
    assert "".join([output.outputs[0].text async for output in deltas]) == expected.text
    vectors = await async_llm.embed(["图书馆", "house"])
    for ours, theirs in zip(vectors, llm.embed(["图书馆", "house"], use_tqdm=False), strict=True):
        np.testing.assert_allclose(ours.outputs.embedding, theirs.outputs.embedding, atol=1e-6)
    assert (await async_llm.rerank("书", ["甲", "乙"])).results == llm.rerank("书", ["甲", "乙"]).results
    scores = await async_llm.score("书", ["甲", "乙"])
    expected_scores = [output.outputs for output in llm.score("书", ["甲", "乙"], use_tqdm=False)]
    assert [output.outputs for output in scores] == expected_scores


async def test_only_long_texts_are_tokenized_in_threads(async_llm):
    threads = async_llm._threads._threads
    await async_llm.embed(["河水", "a quiet library"])
    await async_llm.rerank("河水", ["a", "b"])
    await async_llm.score("a", ["b"])
    assert not threads
    await async_llm.embed(["河水 " * 100] * 10)
    assert threads


async def test_many_at_once(llm, async_llm):
    prompts = [f"第{i}本书" for i in range(40)]
    expected = [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY, use_tqdm=False)]
    streams = asyncio.gather(*(last(async_llm.generate(prompt, GREEDY)) for prompt in prompts))
    vectors = asyncio.gather(*(async_llm.embed([prompt] * 3) for prompt in prompts))
    assert [output.outputs[0].token_ids for output in await streams] == expected
    assert all(len(three) == 3 for three in await vectors)


async def test_one_wake_up_for_each_step(llm, async_llm, monkeypatch):
    """However many requests a step has news of, the event loop is woken once."""
    event_loop, wake_ups = asyncio.get_running_loop(), []
    call_soon_threadsafe = event_loop.call_soon_threadsafe

    def counting(callback, *args, **kwargs):
        if getattr(callback, "__name__", "") == "_hand_out":
            wake_ups.append(callback)
        return call_soon_threadsafe(callback, *args, **kwargs)

    monkeypatch.setattr(event_loop, "call_soon_threadsafe", counting)
    before = llm.host.stats().num_steps
    await asyncio.gather(*(last(async_llm.generate("图书馆", GREEDY)) for _ in range(20)))
    assert 16 <= len(wake_ups) <= llm.host.stats().num_steps - before


async def test_leaving_a_stream_aborts_the_request(llm, async_llm):
    async with aclosing(async_llm.generate("图书馆", LONG)) as stream:
        async for _ in stream:
            break
    assert await idle(llm)
    async for _ in async_llm.chat(MESSAGES, LONG):  # without aclosing the garbage collector closes it
        break
    assert await idle(llm)


async def test_cancelling_a_task_aborts_its_requests(llm, async_llm):
    texts = ["图书馆" * 80] * 300
    for work in (last(async_llm.generate("图书馆", LONG)), async_llm.embed(texts), async_llm.rerank("书", texts)):
        task = asyncio.ensure_future(work)
        while llm.host.loop.stats().num_open == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await idle(llm)
    counted = llm.host.stats().requests
    assert counted[llm.host.get(None, "chat").key, "abort"] >= 1
    assert counted[llm.host.get(None, "embedding").key, "abort"] >= 1


async def test_abort_by_request_id(llm, async_llm):
    outputs = []
    async for output in async_llm.generate("图书馆", LONG, request_id="mine"):
        outputs.append(output)
        if len(outputs) == 3:
            async_llm.abort("mine")
            async_llm.abort("nobody's")
    assert outputs[-1].finished
    assert outputs[-1].request_id == "mine"
    assert outputs[-1].outputs[0].finish_reason == "abort"
    assert 3 <= len(outputs[-1].outputs[0].token_ids) < 1500


async def test_errors_come_before_the_first_output(async_llm):
    with pytest.raises(ContextLengthError):
        await last(async_llm.generate("图书馆", replace(LONG, max_tokens=5000)))
    with pytest.raises(ContextLengthError):
        await async_llm.embed("图书馆" * 1000)


async def test_a_slow_reader_gets_several_steps_in_one_delta(llm, async_llm):
    expected = llm.generate("图书馆", GREEDY, use_tqdm=False)[0].outputs[0].text
    pieces = []
    async for output in async_llm.generate("图书馆", replace(GREEDY, output_kind=RequestOutputKind.DELTA)):
        pieces.append(output.outputs[0].text)
        assert await idle(llm)  # the engine is done before the reader comes back
    assert "".join(pieces) == expected
    assert len(pieces) == 2


def test_many_event_loops_in_many_threads(llm):
    shared = AsyncLLM(host=llm.host)
    expected = llm.generate("图书馆", GREEDY, use_tqdm=False)[0].outputs[0].token_ids

    async def several():
        outputs = await asyncio.gather(*(last(shared.generate("图书馆", GREEDY)) for _ in range(4)))
        await shared.embed(["图书馆"] * 4)
        return [output.outputs[0].token_ids for output in outputs]

    with ThreadPoolExecutor(8) as pool:
        for tokens in pool.map(lambda _: asyncio.run(several()), range(16)):
            assert tokens == [expected] * 4
    shared.close()


def test_a_closed_event_loop_harms_nobody(llm):
    shared = AsyncLLM(host=llm.host)
    event_loop = asyncio.new_event_loop()

    async def begin() -> None:
        async for _ in shared.generate("图书馆", LONG):
            return

    task = event_loop.create_task(begin())
    while not task.done():
        event_loop.run_until_complete(asyncio.sleep(0.01))
    stream = shared.generate("图书馆", LONG)
    event_loop.run_until_complete(anext(stream))
    event_loop.close()  # with a request under way
    assert len(llm.generate("图书馆", GREEDY, use_tqdm=False)[0].outputs[0].token_ids) == 16
    assert asyncio.run(idle(llm))
    shared.close()


def test_sixty_four_threads_at_once(llm):
    expected = [llm.generate(f"第{i}本", GREEDY, use_tqdm=False)[0].outputs[0].token_ids for i in range(8)]
    start = threading.Barrier(64)

    def work(i: int):
        start.wait()
        if i % 4 == 3:
            return len(llm.rerank("书", ["甲", "乙"]).results) == 2
        if i % 4 == 2:
            return len(llm.embed(["甲", "乙"], use_tqdm=False)) == 2
        return llm.generate(f"第{i % 8}本", GREEDY, use_tqdm=False)[0].outputs[0].token_ids == expected[i % 8]

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(work, range(64)))


async def test_embedding_never_stalls_a_chat(llm, async_llm):
    """While a mountain of inputs is embedded, every step of the engine still gives each chat its token."""
    mountain = asyncio.ensure_future(async_llm.embed(["图书馆的阅览室" * 12] * 600))
    while llm.host.loop.stats().scheduler.num_waiting_pooling == 0:
        await asyncio.sleep(0.001)
    before = llm.host.stats().num_steps
    final = await last(async_llm.generate("图书馆", replace(GREEDY, max_tokens=40)))
    steps = llm.host.stats().num_steps - before
    assert not mountain.done(), "the mountain was too small to say anything"
    assert len(final.outputs[0].token_ids) == 40
    assert steps <= 40 + 10
    mountain.cancel()
    assert await idle(llm)


async def test_close_ends_everything_and_every_later_call(tiny_models):
    llm = AsyncLLM(str(tiny_models("qwen2")), embedding_model=str(tiny_models("bert-mean")), max_num_seqs=4)
    work = [asyncio.ensure_future(last(llm.generate("图书馆", LONG))) for _ in range(8)]
    work.append(asyncio.ensure_future(llm.embed(["图书馆" * 80] * 2000)))
    while llm.host.loop.stats().num_open < 2000:
        await asyncio.sleep(0.001)
    await llm.aclose()
    for outcome in await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 10):
        assert isinstance(outcome, EngineClosedError)
    await llm.aclose()
    for call in (last(llm.generate("a")), last(llm.chat(MESSAGES)), llm.embed("a"), llm.rerank("a", ["b"])):
        with pytest.raises(EngineClosedError):
            await call
