"""Shared by the tests of the adapters: one engine with three tiny models, and a real server over it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from adapter_helpers import API_KEY, wait_until
from carrel import LLM, AsyncLLM
from carrel_server.app import create_app
from carrel_server.http_protocol import IgnoreUpgradeProtocol
from carrel_server.listening import bind
from carrel_server.settings import ServerSettings


@pytest.fixture(scope="session")
def model_folders(tiny_models: Callable[[str], Path]) -> dict[str, str]:
    """Folders by task. The embedding model has a query prompt, so that a query and a document differ."""
    variants = {"chat": "qwen2", "embedding": "xlmr-prompts", "rerank": "bert-reranker"}
    return {task: str(tiny_models(variant)) for task, variant in variants.items()}


@pytest.fixture(scope="session")
def llm(model_folders: dict[str, str]) -> Iterator[LLM]:
    folders = model_folders
    with LLM(folders["chat"], embedding_model=folders["embedding"], reranker_model=folders["rerank"]) as shared:
        yield shared


@pytest.fixture(scope="session")
def server_url(llm: LLM) -> Iterator[str]:
    """A carrel server on loopback, over the engine of ``llm``."""
    app = create_app(AsyncLLM(host=llm.host), ServerSettings(api_keys=(API_KEY.get_secret_value(),)))
    config = uvicorn.Config(app, http=IgnoreUpgradeProtocol, ws="none", lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(params=["in process", "over HTTP"])
def way_in(request: pytest.FixtureRequest, llm: LLM) -> dict[str, Any]:
    """The fields of an adapter that reach the same engine in two ways."""
    if request.param == "in process":
        return {"llm": llm}
    return {"base_url": request.getfixturevalue("server_url") + "/v1", "api_key": API_KEY}
