"""Fixtures that every room uses."""

import os

import pytest
from tiny_models import TinyModels

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: tests need no network
os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton; 0 runs tests/kernels on a GPU
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread waits longer than it computes


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Small random models by name, e.g. ``tiny_models("qwen2")`` → folder; see ``scripts/make_tiny_models.py``."""
    return TinyModels(tmp_path_factory.mktemp("tiny_models"))
