"""One real engine with three tiny models, behind one real server on a loopback socket, for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import dictated
import httpx
import pytest
from carrel.async_llm import AsyncLLM
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from scripted import scripted_folder, scripted_host
from server_threads import running
from tiny_models import TinyModels


@pytest.fixture(scope="session")
def specs(tiny_models: Callable[[str], Path]) -> list[ModelSpec]:
    return [
        ModelSpec(name=str(tiny_models("qwen2")), served_model_name=("tiny-chat", "alias/chat")),
        ModelSpec(name=str(tiny_models("bert-mean")), served_model_name=("tiny-embed",)),
        ModelSpec(name=str(tiny_models("bert-reranker")), served_model_name=("tiny-rerank",)),
    ]


@pytest.fixture(scope="session")
def host(specs: list[ModelSpec]) -> Iterator[EngineHost]:
    config = EngineConfig(device="cpu", kv_cache_memory_bytes=16 * 1024 * 1024, max_num_batched_tokens=512)
    with EngineHost(specs, config) as engine:
        yield engine


@pytest.fixture(scope="session")
def url(host: EngineHost) -> Iterator[str]:
    """A server without a key."""
    with running(create_app(AsyncLLM(host=host))) as address:
        yield address


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as http:
        yield http


@pytest.fixture(scope="session")
def key_url(host: EngineHost) -> Iterator[str]:
    """A server that asks for one of two keys."""
    settings = ServerSettings(api_keys=("first-key", "schlüssel"), embedding_token_ids="model")
    with running(create_app(AsyncLLM(host=host), settings)) as address:
        yield address


@pytest.fixture(scope="session")
def dictated_host(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHost]:
    """A model that writes what it is dictated, see ``dictated.py``. It calls as Hermes does, thinks as Qwen3 does."""
    folder = tmp_path_factory.mktemp("dictated") / "model"
    tags = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    scripted_folder(tiny_models, folder, chat_template=dictated.TEMPLATE, added=tags)
    with scripted_host([ModelSpec(name=str(folder), served_model_name=(dictated.NAME,))], dictated.script) as engine:
        yield engine


@pytest.fixture(scope="session")
def dictated_url(dictated_host: EngineHost) -> Iterator[str]:
    with running(create_app(AsyncLLM(host=dictated_host))) as address:
        yield address


@pytest.fixture(scope="session")
def scribe(dictated_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=dictated_url, timeout=60) as http:
        yield http
