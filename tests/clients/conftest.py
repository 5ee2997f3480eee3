"""One scripted chat model, a tiny embedder and a tiny reranker behind real sockets, for clients of every language."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from carrel.async_llm import AsyncLLM
from carrel.config import ModelSpec
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from reading_room import API_KEY, CHAT, EMBED, RERANK, TEMPLATE, script
from scripted import scripted_folder, scripted_host
from server_threads import running
from tiny_models import TinyModels


@pytest.fixture(scope="session")
def host(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHost]:
    chat = scripted_folder(
        tiny_models,
        tmp_path_factory.mktemp("reading_room"),
        chat_template=TEMPLATE,
        added=("<think>", "</think>", "<tool_call>", "</tool_call>"),
    )
    specs = [
        ModelSpec(
            name=str(chat), served_model_name=(CHAT, "gpt-4o-mini"), tool_call_parser="hermes", reasoning_parser="qwen3"
        ),
        ModelSpec(name=str(tiny_models("bert-mean")), served_model_name=(EMBED, "text-embedding-3-small")),
        ModelSpec(name=str(tiny_models("bert-reranker")), served_model_name=(RERANK, "rerank-v3.5")),
    ]
    with scripted_host(specs, script) as engine:
        yield engine


@pytest.fixture(scope="session")
def url(host: EngineHost) -> Iterator[str]:
    """A server that asks for the key."""
    with running(create_app(AsyncLLM(host=host), ServerSettings(api_keys=(API_KEY,)))) as address:
        yield address


@pytest.fixture(scope="session")
def open_url(host: EngineHost) -> Iterator[str]:
    """A server without a key, over the same engine."""
    with running(create_app(AsyncLLM(host=host))) as address:
        yield address
