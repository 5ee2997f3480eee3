"""Shared by the tests of the engine's faces: small tokenizers, tiny models behind one LLM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_tokenizers
from carrel import LLM
from carrel.tokenizer import Tokenizer
from small_engine import SMALL
from tiny_models import TinyModels


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: small_tokenizers.save(kind, root / kind) for kind in small_tokenizers.KINDS}


@pytest.fixture(scope="session")
def tokenizers(tokenizer_folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: Tokenizer.from_folder(folder) for kind, folder in tokenizer_folders.items()}


@pytest.fixture(scope="session")
def real_tokenizer_folders() -> dict[str, Path]:
    """Tokenizers of released models, where a checkout has them beside it."""
    root = Path(os.environ.get("CARREL_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "tokenizers"
    if not root.is_dir():
        pytest.skip("tokenizers of released models are not here (set CARREL_SHARED to a folder that has them)")
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / "tokenizer.json").is_file()}


@pytest.fixture(scope="session")
def llm(tiny_models: TinyModels) -> Iterator[LLM]:
    """A chat model, an embedder and a cross-encoder in one engine."""
    with LLM(
        str(tiny_models("qwen2")),
        embedding_model=str(tiny_models("bert-mean")),
        reranker_model=str(tiny_models("bert-reranker")),
        **SMALL,
    ) as llm:
        yield llm
