"""ChatCarrel against a real engine, in process and over HTTP: streams, batches, counts, callbacks, cancellation."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from adapter_helpers import await_until, in_flight, wait_until
from carrel import LLM
from carrel.errors import ContextLengthError, EngineClosedError, UnsupportedTaskError
from carrel_client import ServerRefusedError
from langchain_carrel import ChatCarrel
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

QUESTION = [SystemMessage("简短回答。"), HumanMessage("一个读者可以借几本书?")]
NUM_INPUTS = 128


def chat(way_in: dict[str, Any], **options: Any) -> ChatCarrel:
    return ChatCarrel(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **way_in, **options})


def added(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


async def test_every_call_gives_the_same_answer(way_in: dict[str, Any]) -> None:
    async with chat(way_in) as model:
        whole = model.invoke(QUESTION)
        assert isinstance(whole, AIMessage)
        assert whole.text
        assert (await model.ainvoke(QUESTION)).text == whole.text
        assert added(list(model.stream(QUESTION))).text == whole.text
        assert added([chunk async for chunk in model.astream(QUESTION)]).text == whole.text
        assert [message.text for message in model.batch([QUESTION] * 3)] == [whole.text] * 3
        assert [message.text for message in await model.abatch([QUESTION] * 3)] == [whole.text] * 3
        completed = dict(model.batch_as_completed([QUESTION] * 3))
        assert sorted(completed) == [0, 1, 2]
        assert all(isinstance(message, AIMessage) and message.text == whole.text for message in completed.values())


async def test_usage_and_metadata_stand_once_on_the_last_chunk(way_in: dict[str, Any]) -> None:
    async with chat(way_in) as model:
        whole = model.invoke(QUESTION)
        for chunks in (list(model.stream(QUESTION)), [chunk async for chunk in model.astream(QUESTION)]):
            assert [chunk.chunk_position for chunk in chunks].count("last") == 1
            assert all(chunk.usage_metadata is None for chunk in chunks[:-1])
            total = added(chunks)
            assert total.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"] == "length"
            assert total.response_metadata["model_name"] == whole.response_metadata["model_name"]
            assert total.usage_metadata is not None and whole.usage_metadata is not None
            assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"] == 12
            assert total.usage_metadata["input_tokens"] == model.get_num_tokens_from_messages(QUESTION)


def test_a_stop_string_ends_the_text(way_in: dict[str, Any]) -> None:
    with chat(way_in) as model:
        text = model.invoke(QUESTION).text
        stop = text[len(text) // 2]
        stopped = model.invoke(QUESTION, stop=[stop])
        assert stopped.text == text[: text.index(stop)]
        assert stopped.response_metadata["finish_reason"] == "stop"
        assert chat(way_in, stop=[stop]).invoke(QUESTION).text == stopped.text


def test_a_seed_repeats_and_options_of_a_call_win(way_in: dict[str, Any]) -> None:
    with chat(way_in, temperature=1.0, seed=7) as model:
        assert model.invoke(QUESTION).text == model.invoke(QUESTION).text
        assert model.bind(seed=8).invoke(QUESTION).text != model.invoke(QUESTION).text
        message = model.invoke(QUESTION, max_tokens=3)
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] == 3


def test_counts_are_the_models_own(way_in: dict[str, Any], llm: LLM) -> None:
    with chat(way_in) as model:
        text = "读者可以安静地看书。🎉"
        assert model.get_token_ids(text) == llm.get_tokenizer().encode(text, add_special_tokens=False)
        assert model.get_num_tokens(text) == len(model.get_token_ids(text))


def test_a_chain_runs(way_in: dict[str, Any]) -> None:
    with chat(way_in) as model:
        chain = ChatPromptTemplate.from_messages([("human", "回答:{question}")]) | model | StrOutputParser()
        texts = chain.batch([{"question": "几本书?"}, {"question": "几个星期?"}])
        assert all(texts)
        assert "".join(chain.stream({"question": "几本书?"})) == texts[0]


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)


async def test_streaming_tells_every_token_to_the_callbacks(way_in: dict[str, Any]) -> None:
    async with chat(way_in, streaming=True) as model:
        sync, native = Tokens(), Tokens()
        assert model.invoke(QUESTION, {"callbacks": [sync]}).text == "".join(sync.tokens)
        assert (await model.ainvoke(QUESTION, {"callbacks": [native]})).text == "".join(native.tokens)
        assert len(sync.tokens) > 2


# Many at once


class Meeting(BaseCallbackHandler):
    """Lets no input pass before all have started: a batch that runs them in turns fails here."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.ended: list[str] = []
        self.peak = 0

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.barrier.wait(timeout=60)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ended.append(response.generations[0][0].text)


def test_a_batch_is_in_flight_at_once_and_keeps_callbacks(way_in: dict[str, Any], llm: LLM) -> None:
    meeting = Meeting(NUM_INPUTS)
    before = llm.host.stats().num_steps
    with chat(way_in, max_tokens=24) as model:
        inputs: list[Any] = [f"第{number}个问题" for number in range(NUM_INPUTS)]
        messages = model.batch(inputs, {"callbacks": [meeting], "tags": ["all"]})
    assert sorted(meeting.ended) == sorted(message.text for message in messages)
    steps = llm.host.stats().num_steps - before
    assert steps < 4 * 24, f"{steps} steps for {NUM_INPUTS} answers of 24 tokens: they were not in flight at once"


def test_max_concurrency_is_respected(llm: LLM) -> None:
    running: list[int] = []
    lock = threading.Lock()
    now = 0

    class Count(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            nonlocal now
            with lock:
                now += 1
                running.append(now)

        def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            nonlocal now
            with lock:
                now -= 1

    chat({"llm": llm}).batch(["你好"] * 12, {"callbacks": [Count()], "max_concurrency": 3})
    assert max(running) <= 3


async def test_abatch_is_in_flight_at_once(way_in: dict[str, Any], llm: LLM) -> None:
    class Watch(AsyncCallbackHandler):
        started = 0
        overlapped = 0

        async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            Watch.started += 1

        async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            Watch.overlapped = max(Watch.overlapped, Watch.started)

    before = llm.host.stats().num_steps
    async with chat(way_in, max_tokens=24) as model:
        messages = await model.abatch([f"问题{n}" for n in range(NUM_INPUTS)], {"callbacks": [Watch()]})
    assert len(messages) == NUM_INPUTS
    assert Watch.overlapped == NUM_INPUTS
    assert llm.host.stats().num_steps - before < 4 * 24


def test_one_bad_input_of_a_batch_is_returned_beside_the_good_ones(way_in: dict[str, Any]) -> None:
    with chat(way_in) as model:
        good, bad = model.batch(["好", "长" * 5000], return_exceptions=True)
    assert isinstance(good, AIMessage)
    assert isinstance(bad, ContextLengthError | ServerRefusedError)
    assert "maximum context length" in str(bad)


# Leaving early


async def test_cancelling_aborts_in_the_engine(way_in: dict[str, Any], llm: LLM) -> None:
    async with chat(way_in, max_tokens=1900) as model:
        before = llm.host.stats().num_steps
        task = asyncio.create_task(model.ainvoke("一直说下去"))
        await await_until(lambda: in_flight(llm) > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await await_until(lambda: in_flight(llm) == 0)
    assert llm.host.stats().num_steps - before < 1900


async def test_leaving_an_async_stream_aborts_in_the_engine(way_in: dict[str, Any], llm: LLM) -> None:
    async with chat(way_in, max_tokens=1900) as model:
        before = llm.host.stats().num_steps
        stream = model.astream("一直说下去")
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        await await_until(lambda: in_flight(llm) == 0)
    assert llm.host.stats().num_steps - before < 1900


def test_leaving_a_stream_aborts_in_the_engine(way_in: dict[str, Any], llm: LLM) -> None:
    with chat(way_in, max_tokens=1900) as model:
        before = llm.host.stats().num_steps
        stream = model.stream("一直说下去")
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        wait_until(lambda: in_flight(llm) == 0)
    assert llm.host.stats().num_steps - before < 1900


# Refusals


def test_a_closed_adapter_refuses_and_leaves_a_shared_engine_open(llm: LLM) -> None:
    model = chat({"llm": llm})
    model.invoke("你好")
    model.close()
    with pytest.raises(EngineClosedError, match="make a new one"):
        model.invoke("你好")
    assert chat({"llm": llm}).invoke("你好").text


def test_another_task_is_refused(llm: LLM, model_folders: dict[str, str]) -> None:
    with pytest.raises(UnsupportedTaskError):
        chat({"llm": llm}, model=model_folders["embedding"]).invoke("你好")
