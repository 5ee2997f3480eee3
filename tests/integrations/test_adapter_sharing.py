"""Engines that adapters open by name: loaded once for all who name the same model, freed by the last one."""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from carrel import LLM
from carrel.errors import EngineClosedError, ModelNotFoundError
from carrel.host import EngineHost
from langchain_carrel import CarrelEmbeddings, CarrelRerank, ChatCarrel
from llama_index.embeddings.carrel import CarrelEmbedding
from llama_index.llms.carrel import Carrel
from llama_index.postprocessor.carrel import CarrelRerank as NodeRerank

OPTIONS: dict[str, Any] = {
    "engine_options": {"max_num_seqs": 8}
}  # of these tests alone, so that they share with no other


def host_of(adapter: Any) -> EngineHost:
    host = adapter._connection.open()._host
    assert isinstance(host, EngineHost)
    return host


def is_alive(host: EngineHost) -> bool:
    return host.is_alive  # through a function, so that mypy takes no answer for the next one


def test_adapters_of_both_frameworks_share_one_engine(model_folders: dict[str, str]) -> None:
    fields: dict[str, Any] = {"model": model_folders["chat"], **OPTIONS}
    first, second, third = ChatCarrel(**fields), ChatCarrel(temperature=0, **fields), Carrel(**fields)
    host = host_of(first)
    assert host_of(second) is host
    assert host_of(third) is host
    first.close()
    first.close()
    third.close()
    assert is_alive(host)
    assert second.invoke("你好", max_tokens=2, ignore_eos=True).text
    second.close()
    assert not is_alive(host)
    with pytest.raises(EngineClosedError):
        second.invoke("你好")
    with ChatCarrel(**fields) as again:
        assert host_of(again) is not host


def test_other_options_are_another_engine(model_folders: dict[str, str]) -> None:
    folder = model_folders["embedding"]
    with CarrelEmbeddings(model=folder, **OPTIONS) as one, CarrelEmbeddings(model=folder) as other:
        assert host_of(one) is not host_of(other)


@pytest.mark.parametrize(
    ("adapter", "task"),
    [
        (ChatCarrel, "chat"),
        (Carrel, "chat"),
        (CarrelEmbeddings, "embedding"),
        (CarrelEmbedding, "embedding"),
        (CarrelRerank, "rerank"),
        (NodeRerank, "rerank"),
    ],
)
def test_many_threads_open_an_adapter_once(adapter: type[Any], task: str, model_folders: dict[str, str]) -> None:
    with adapter(model=model_folders[task], **OPTIONS) as made:
        with ThreadPoolExecutor(8) as threads:
            hosts = set(threads.map(lambda _: host_of(made), range(8)))
        (host,) = hosts
    assert not host.is_alive


async def test_the_event_loop_goes_on_while_a_model_is_opened(model_folders: dict[str, str]) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    async with CarrelEmbeddings(model=model_folders["embedding"], **OPTIONS) as embeddings:
        assert len(await embeddings.aembed_query("借书")) == 48
    ticking.cancel()
    assert ticks >= 3


@pytest.mark.parametrize("adapter", [ChatCarrel, Carrel, CarrelEmbeddings, CarrelEmbedding, CarrelRerank, NodeRerank])
def test_a_deep_copy_shares_the_engine(adapter: type[Any], llm: LLM) -> None:
    made = adapter(llm=llm)
    copied = copy.deepcopy(made)
    assert copied is not made
    assert host_of(copied) is host_of(made) is llm.host


def test_a_model_that_is_not_there_is_told_on_first_use() -> None:
    chat = ChatCarrel(model="no/such-model")
    for _ in range(2):
        with pytest.raises(ModelNotFoundError, match="no/such-model"):
            chat.invoke("你好")
    chat.close()
