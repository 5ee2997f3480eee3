"""While one client's long request is read, or its long answer written, the others' streams go on."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from carrel.async_llm import AsyncLLM
from carrel.host import EngineHost
from carrel_server import body as body_module
from carrel_server import create_app, json_body
from carrel_server.json_body import MAX_CONTAINERS, MAX_VALUES, TooManyValues
from carrel_server.json_response import ENTRIES_IN_LOOP, written
from carrel_server.run import calm_collector
from hypothesis import given
from hypothesis import strategies as st
from server_threads import running

JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a图,[{"\\:'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='a图,[{"\\'), inner),
)


def count(value: Any) -> tuple[int, int]:
    """Lists and objects, and commas between values."""
    if not isinstance(value, dict | list):
        return 0, 0
    inner = [count(each) for each in (value.values() if isinstance(value, dict) else value)]
    return 1 + sum(c for c, _ in inner), max(0, len(inner) - 1) + sum(c for _, c in inner)


@given(JSON, st.booleans())
def test_what_stands_in_strings_is_no_value(value: Any, plain: bool) -> None:
    data = json.dumps(value, ensure_ascii=plain).encode()
    containers, commas = count(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_body, "MAX_CONTAINERS", containers)
        patch.setattr(json_body, "MAX_VALUES", containers + commas)
        json_body.check_count(data)
        if containers:
            patch.setattr(json_body, "MAX_CONTAINERS", containers - 1)
            with pytest.raises(TooManyValues, match="lists and objects"):
                json_body.check_count(data)
            patch.setattr(json_body, "MAX_CONTAINERS", containers)
            patch.setattr(json_body, "MAX_VALUES", containers + commas - 1)
            with pytest.raises(TooManyValues, match="values"):
                json_body.check_count(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"messages": [' + b"{}," * MAX_CONTAINERS + b"{}]}", "lists and objects"),
        (b'{"prompt": [' + b"1," * MAX_VALUES + b"1]}", "values"),
        (b"[" * 400_000, "lists and objects"),
        (b'{"a":"' + b'","a":"' * (MAX_VALUES + 1), "values"),
        (b'{"extra_body": {' + b",".join(b'"f%d":1' % i for i in range(2000)) + b"}}", "2000 fields"),
        (b"{" + b",".join(b'"f%d":1' % i for i in range(2000)) + b"}", "2000 fields"),
        (b'{"chat_template_kwargs": {' + b",".join(b'"f%d":1' % i for i in range(2000)) + b"}}", "2000 fields"),
        (b'{"messages": [{"role": "user"}], "tools": [' + b"{}," * 999 + b"{}]}", "At most 128 tools"),
        (b'{"messages": [{"role": "user"}], "functions": [' + b"{}," * 999 + b"{}]}", "At most 128 functions"),
    ],
    ids=["objects", "ids", "open", "strings", "extra_body", "fields", "kwargs", "tools", "functions"],
)
def test_bodies_of_too_many_values(client: httpx.Client, data: bytes, message: str) -> None:
    answer = client.post("/v1/chat/completions", content=data)
    assert answer.status_code == 400, answer.text[:300]
    assert message in answer.json()["error"]["message"]


def test_a_long_text_full_of_commas_is_one_value(client: httpx.Client) -> None:
    body = {"prompt": '[,"\\' * (MAX_VALUES + 1), "model": "tiny-chat"}
    answer = client.post("/v1/completions", json=body)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(("size", "is_alone"), [(10, False), (100_000, True)])
def test_long_bodies_are_read_in_a_thread(
    host: EngineHost, monkeypatch: pytest.MonkeyPatch, size: int, is_alone: bool
) -> None:
    names: list[str] = []
    read: Callable[..., Any] = body_module.loads

    def loads(data: bytes) -> Any:
        names.append(threading.current_thread().name)
        return read(data)

    monkeypatch.setattr(body_module, "loads", loads)
    with running(create_app(AsyncLLM(host=host))) as url:
        body = {"query": "河", "documents": ["水" * size, "b"], "model": "tiny-rerank"}
        assert httpx.post(url + "/rerank", json=body, timeout=60).status_code == 200
        httpx.post(url + "/detokenize", json={"tokens": [1]})
    assert (names[0] != names[1]) == is_alone


@pytest.mark.parametrize(("size", "is_alone"), [(ENTRIES_IN_LOOP, False), (ENTRIES_IN_LOOP + 1, True)])
async def test_long_answers_are_made_and_written_in_a_thread(size: int, is_alone: bool) -> None:
    answer = await written(lambda: {"thread": threading.get_ident()}, size)
    assert (json.loads(bytes(answer.body))["thread"] != threading.get_ident()) == is_alone


def test_what_was_loaded_is_not_looked_through_for_garbage() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        calm_collector()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
