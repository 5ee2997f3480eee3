"""The small models that carrel brings along, so that everything runs without a download.

=====================  =============================================================================================
``starter/reader``     chat, about 10 MB, in this package: quotes the answer from the passages of a prompt
``starter/embedding``  all-MiniLM-L6-v2, 384 dimensions, English; its files come with the extra ``starter``
``starter/reranker``   a cross-encoder of 25 MB in this package, English and Chinese, that also finds the answer's span
=====================  =============================================================================================

Knows where their files are and that they are unchanged; loads nothing.
"""

from __future__ import annotations

from pathlib import Path

from carrel.config import Task
from carrel.errors import ModelNotFoundError
from carrel.starter.minilm import find_minilm

READER, EMBEDDING, RERANKER = "starter/reader", "starter/embedding", "starter/reranker"
STARTERS: dict[str, Task] = {READER: "chat", EMBEDDING: "embedding", RERANKER: "rerank"}
HOME = Path(__file__).parent


def find_starter(name: str) -> Path:
    """Folder of a bundled model.

    Raises:
        ModelNotFoundError: its files are not installed.
        WeightsError: they are, but damaged.
    """
    assert name in STARTERS, f"{name} is not a starter"
    if name == EMBEDDING:
        return find_minilm()
    folder = HOME / name.rpartition("/")[2]
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{name} is missing from this installation; install carrel again from its wheel.")
    return folder
