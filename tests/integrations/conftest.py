"""Shared by the tests of the adapters: one engine with three tiny models and one that writes what tests say, and a real
server over each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scribe
import uvicorn
from adapter_helpers import API_KEY, wait_until
from carrel import LLM, AsyncLLM
from carrel.config import ModelSpec
from carrel_server.app import create_app
from carrel_server.http_protocol import IgnoreUpgradeProtocol
from carrel_server.listening import bind
from carrel_server.settings import ServerSettings
from scripted import scripted_folder, scripted_host
from server_threads import running
from tiny_models import TinyModels


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


@pytest.fixture(scope="session")
def scribe_llm(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """The model of ``scribe.py``, under Qwen3's chat template."""
    template = Path(__file__).parents[1] / "data" / "chat_templates" / "Qwen-Qwen3-0.6B.jinja"
    folder = tmp_path_factory.mktemp("scribe") / "model"
    scripted_folder(
        tiny_models, folder, chat_template=template.read_text(encoding="utf-8"), added=(*scribe.TAGS, *scribe.WORDS)
    )
    spec = ModelSpec(name=str(folder), served_model_name=(scribe.NAME,))
    with scripted_host([spec], scribe.script) as host, LLM(host=host) as llm:
        yield llm


@pytest.fixture(scope="session")
def scribe_url(scribe_llm: LLM) -> Iterator[str]:
    with running(create_app(AsyncLLM(host=scribe_llm.host))) as url:
        yield url


@pytest.fixture(params=["in process", "over HTTP"])
def scribe_way(request: pytest.FixtureRequest, scribe_llm: LLM) -> dict[str, Any]:
    """As ``way_in``, to the model of ``scribe.py``."""
    return {"llm": scribe_llm} if request.param == "in process" else {"base_url": request.getfixturevalue("scribe_url")}
