"""Fixtures of the RAG tests: a pipeline over fakes, and documents to ask about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from carrel_rag import RAGPipeline
from rag_fakes import FakeEmbedder, FakeReranker

DATA = Path(__file__).parent / "data"


@pytest.fixture
def data() -> Path:
    """The folder of small nasty documents."""
    return DATA


@pytest.fixture
def examples() -> Path:
    """The demo documents."""
    return Path(__file__).parents[2] / "examples" / "documents"


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[RAGPipeline]:
    """An empty knowledge base over fake models, without a chat model."""
    with RAGPipeline.open(tmp_path / "kb", embedder=FakeEmbedder(), reranker=FakeReranker()) as rag:
        yield rag
