"""The vectors in memory: FAISS over what the store holds. Built at open, kept in step with commits; writes nothing.

FAISS may not be searched while it is changed, so one lock stands around both; a flat search of 100,000 vectors of 384
numbers takes about ten milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
        self._lock = threading.Lock()  # around FAISS
        self._commits = threading.Lock()  # from the store's commit until FAISS has it, too
        self._generation = -1
        self._index = self._empty()
        self.refresh()

    def __len__(self) -> int:
        with self._lock:
            return int(self._index.ntotal)

    def refresh(self) -> None:
        """Reads all vectors again if another process has written; otherwise only compares two numbers."""
        if self._is_current():
            return
        with self._commits:  # a commit of this process may just be on its way in
            if not self._is_current():
                self._read_all()

    def _is_current(self) -> bool:
        with self._store.snapshot() as now:
            return now.generation == self._generation

    def _read_all(self) -> None:
        with self._store.snapshot() as now:
            generation, ids, vectors = now.vectors()
        fresh = self._empty()
        if ids:
            fresh.add_with_ids(check_vectors(vectors, self._dim), np.asarray(ids, np.int64))
        with self._lock:
            self._index, self._generation = fresh, generation

    def commit(self, write: Callable[[], Change | None]) -> Change | None:
        """Runs ``write``, which commits to the store, and follows it."""
        with self._commits:
            change = write()
            if change is not None:
                self._apply(change)
            return change

    def _apply(self, change: Change) -> None:
        """If another process committed in between, the next ``refresh`` reads all again."""
        with self._lock:
            if change.generation != self._generation + 1:
                return
            if change.removed:
                self._index.remove_ids(_selector(change.removed))
            if change.added:
                self._index.add_with_ids(np.ascontiguousarray(change.vectors), np.asarray(change.added, np.int64))
            self._generation = change.generation

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No commit of this process while it lasts, and all earlier ones are in the index."""
        with self._commits:
            if not self._is_current():
                self._read_all()
            yield

    def search(
        self, query: FloatArray, limit: int, allowed: Sequence[int] | None = None
    ) -> tuple[int, list[tuple[int, float]]]:
        """The store's generation that was searched, and ``(chunk id, cosine)``, best first, of ``allowed`` if given.

        ``query`` is ``[dim]``.
        """
        vectors = check_vectors(query.reshape(1, -1), self._dim)
        with self._lock:
            limit = min(limit, int(self._index.ntotal))
            if limit == 0:
                return self._generation, []
            scores, ids = self._index.search(vectors, limit, params=_only(allowed))
            return self._generation, [(int(i), float(s)) for i, s in zip(ids[0], scores[0], strict=True) if i >= 0]

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
