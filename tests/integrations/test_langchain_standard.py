"""LangChain's own contract tests, over the same engine in process and over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
import scribe
from adapter_helpers import API_KEY
from carrel import LLM
from langchain_carrel import CarrelEmbeddings, ChatCarrel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

SAMPLING: dict[str, Any] = {"temperature": 0, "max_tokens": 200}
LONG = "山上的房子旁边有一条河,河水从山下流过。" * 8


class ChatAbilities:
    """What ChatCarrel declares; LangChain's tests skip or run by it."""

    @property
    def chat_model_class(self) -> type[ChatCarrel]:
        return ChatCarrel

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Any, list[Any]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatCarrel(**SAMPLING, **self.chat_model_params)  # type: ignore[attr-defined]
        model.invoke(LONG)  # leaves its blocks in the prefix cache
        message = model.invoke(LONG, stream=stream)
        assert message.usage_metadata is not None
        assert message.usage_metadata["input_token_details"]["cache_read"] > 0
        return message


class TestChatCarrelUnit(ChatAbilities, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:1", "model": "tiny"}


class TestChatCarrelInProcess(ChatAbilities, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _engine(self, scribe_llm: LLM) -> None:
        self.llm = scribe_llm

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"llm": self.llm}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return SAMPLING  # timeout and max_retries belong to HTTP

    @property
    def model_override_value(self) -> str:
        return scribe.NAME


class TestChatCarrelOverHttp(ChatAbilities, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _server(self, scribe_url: str) -> None:
        self.url = scribe_url

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": self.url}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {**SAMPLING, "timeout": 60, "max_retries": 2, "stop": []}

    @property
    def model_override_value(self) -> str:
        return scribe.NAME

    @pytest.fixture
    async def model(self, request: pytest.FixtureRequest) -> Any:
        """As LangChain's, and closed after the test on the event loop that used it."""
        extra = getattr(request, "param", None) or {}
        async with ChatCarrel(**{**self.standard_chat_model_params, **self.chat_model_params, **extra}) as model:
            yield model


class TestCarrelEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[CarrelEmbeddings]:
        return CarrelEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:1", "model": "tiny"}


class TestCarrelEmbeddingsInProcess(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _engine(self, llm: LLM) -> None:
        self.llm = llm

    @property
    def embeddings_class(self) -> type[CarrelEmbeddings]:
        return CarrelEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"llm": self.llm}


class TestCarrelEmbeddingsOverHttp(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _server(self, server_url: str) -> None:
        self.url = server_url

    @property
    def embeddings_class(self) -> type[CarrelEmbeddings]:
        return CarrelEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"base_url": self.url, "api_key": API_KEY}

    @pytest.fixture
    async def model(self) -> Any:
        async with CarrelEmbeddings(**self.embedding_model_params) as model:
            yield model
