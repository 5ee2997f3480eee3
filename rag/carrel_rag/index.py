"""The vectors in memory: FAISS over what the store holds. Built at open, kept in step with commits; writes nothing.

FAISS may not be searched while it is changed, so one lock stands around both; a flat search of 100,000 vectors of 384
numbers takes about ten milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import faiss
import numpy as np

from carrel_rag.errors import KnowledgeBaseError
from carrel_rag.protocols import FloatArray
from carrel_rag.store import Change, Store


class VectorIndex:
    """Inner product over unit vectors, that is the cosine; ids are the store's chunk ids."""

    def __init__(self, store: Store, dim: int) -> None:
        self._store = store
        self._dim = dim
        self._lock = threading.Lock()
        self._generation = -1
        self._index = self._empty()
        self.refresh()

    def __len__(self) -> int:
        with self._lock:
            return int(self._index.ntotal)

    def refresh(self) -> None:
        """Reads all vectors again if another process has written; otherwise only compares two numbers."""
        if self._store.generation == self._generation:
            return
        generation, ids, vectors = self._store.vectors()
        fresh = self._empty()
        if ids:
            fresh.add_with_ids(check_vectors(vectors, self._dim), np.asarray(ids, np.int64))
        with self._lock:
            if generation > self._generation:
                self._index, self._generation = fresh, generation

    def apply(self, change: Change) -> None:
        """Follows a commit of this process. If another commit came between, the next ``refresh`` reads all again."""
        with self._lock:
            if change.generation != self._generation + 1:
                return
            if change.removed:
                self._index.remove_ids(_selector(change.removed))
            if change.added:
                self._index.add_with_ids(np.ascontiguousarray(change.vectors), np.asarray(change.added, np.int64))
            self._generation = change.generation

    def search(self, query: FloatArray, limit: int, allowed: Sequence[int] | None = None) -> list[tuple[int, float]]:
        """``(chunk id, cosine)``, best first, of ``allowed`` if given. ``query`` is ``[dim]``."""
        vectors = check_vectors(query.reshape(1, -1), self._dim)
        with self._lock:
            limit = min(limit, int(self._index.ntotal))
            if limit == 0:
                return []
            scores, ids = self._index.search(vectors, limit, params=_only(allowed))
        return [(int(i), float(score)) for i, score in zip(ids[0], scores[0], strict=True) if i >= 0]

    def _empty(self) -> faiss.IndexIDMap2:
        return faiss.IndexIDMap2(faiss.IndexFlatIP(self._dim))


def _only(allowed: Sequence[int] | None) -> faiss.SearchParameters | None:
    if allowed is None:
        return None
    params = faiss.SearchParameters()
    params.sel = _selector(allowed)
    return params


def _selector(ids: Sequence[int]) -> faiss.IDSelectorBatch:
    return faiss.IDSelectorBatch(np.asarray(ids, np.int64))


def check_vectors(vectors: FloatArray, dim: int) -> FloatArray:
    """``vectors`` as FAISS wants them, ``[n, dim]`` fp32.

    Raises:
        KnowledgeBaseError: a wrong dimension, or numbers that are not finite: FAISS would take them and find nonsense.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise KnowledgeBaseError(f"vectors of shape {vectors.shape} do not fit the embedding model's dimension {dim}.")
    if not np.isfinite(vectors).all():
        raise KnowledgeBaseError("the embedding model gave numbers that are not finite (NaN or infinity).")
    return np.ascontiguousarray(vectors, dtype=np.float32)
