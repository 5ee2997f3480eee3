"""Shared by the tests of the engine's faces: small tokenizers, no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import small_tokenizers
from carrel.tokenizer import Tokenizer

os.environ.setdefault("HF_HUB_OFFLINE", "1")


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
