"""From a question to the passages that may answer it: two searches, fused, then judged. Writes no answer.

::

    question ─┬─ vector ── VectorIndex.search ─┐
              └─ terms ─── Store.search_terms ─┴─ reciprocal rank fusion ── judge ── threshold ── top_k

The judge is a reranker, or the cosine to the vectors that are stored anyway.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from carrel_rag.index import VectorIndex
from carrel_rag.lexical import query_terms
from carrel_rag.options import MAX_TOP_K
from carrel_rag.protocols import Embedder, FloatArray, Reranker, RerankerKind
from carrel_rag.relevance import Question, make_question
from carrel_rag.schema import Chunk, MetadataValue, RetrievedChunk
from carrel_rag.store import Store
from carrel_rag.text import cjk_share

_RRF_K = 60  # Cormack, Clarke, Büttcher 2009
_MAX_SEARCH = 10_000  # what two searches find must fit into one query: SQLite takes 32,766 values
_MAX_FREE_SEARCHES = 2  # before writers are asked to wait: a document replaced meanwhile would fall between


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig:
    """How many passages each stage hands on."""

    top_k: int = 5
    num_search: int = 40  # of each search
    num_rerank: int = 16  # of the fused list
    min_score: float | None = None  # passages below are dropped; None keeps all

    def __post_init__(self) -> None:
        for name, most in (("top_k", MAX_TOP_K), ("num_search", _MAX_SEARCH), ("num_rerank", _MAX_SEARCH)):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most:,}.")


@dataclass(frozen=True)
class Retrieval:
    """What was found, best first, and how long each stage took in seconds."""

    question: Question
    chunks: tuple[RetrievedChunk, ...]
    num_dropped: int  # found, but below the threshold
    retrieve_seconds: float
    rerank_seconds: float


class Retriever:
    """Knows the store, the index and two models; may be used by many threads.

    Without a reranker the stored vectors judge: nothing but the question is embedded.
    """

    def __init__(
        self, store: Store, index: VectorIndex, embedder: Embedder, reranker: Reranker | None, config: RetrieverConfig
    ) -> None:
        self._store = store
        self._index = index
        self._embedder = embedder
        self._reranker = reranker
        self._config = config

    def retrieve(
        self,
        question: str,
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, MetadataValue] | None = None,
    ) -> Retrieval:
        """The ``top_k`` best passages; ``where`` keeps documents whose metadata has these values."""
        started = time.perf_counter()
        wanted = top_k or self._config.top_k
        found, analysed = self._search(question, where, wanted)
        searched = time.perf_counter()
        ranked = self._judge(analysed, found)
        least = self._config.min_score if min_score is None else min_score
        kept = ranked if least is None else [chunk for chunk in ranked if chunk.score >= least]
        return Retrieval(
            analysed,
            tuple(kept[:wanted]),
            len(ranked) - len(kept),
            searched - started,
            time.perf_counter() - searched,
        )

    def _search(
        self, question: str, where: Mapping[str, MetadataValue] | None, wanted: int
    ) -> tuple[list[RetrievedChunk], Question]:
        terms = query_terms(question)
        vector = self._embedder.embed_query(question)
        for _ in range(_MAX_FREE_SEARCHES):
            self._index.refresh()
            found, analysed, in_step = self._search_once(question, vector, terms, where, wanted)
            if in_step:
                return found, analysed
        with self._index.quiet():
            found, analysed, _ = self._search_once(question, vector, terms, where, wanted)
        return found, analysed

    def _search_once(
        self,
        question: str,
        vector: FloatArray,
        terms: Sequence[str],
        where: Mapping[str, MetadataValue] | None,
        wanted: int,
    ) -> tuple[list[RetrievedChunk], Question, bool]:
        """What was found, the question weighed, and whether both searches saw the same documents."""
        limit = max(self._config.num_search, wanted)
        with self._store.snapshot() as now:
            allowed = now.chunk_ids(where) if where else None
            lexical = now.search_terms(terms, limit, allowed)
            generation, dense = self._index.search(vector, limit, allowed)
            fused = fuse([dense, lexical], [1.0, 1.0 + cjk_share(question)])
            chunks = now.chunks([i for i, _ in fused[: max(self._config.num_rerank, wanted)]])
            judged = now.vectors_of(list(chunks)) if self._reranker is None else {}
            analysed = make_question(question, *now.document_frequencies(terms))
            in_step = generation == now.generation
        cosines, bm25 = dict(dense), dict(lexical)
        found = [
            as_retrieved(
                chunks[i],
                score=score,
                dense_score=cosines.get(i),
                lexical_score=bm25.get(i),
                rerank_score=float(judged[i] @ vector) if i in judged else None,
            )
            for i, score in fused
            if i in chunks
        ]
        return found, analysed, in_step

    def _judge(self, question: Question, found: Sequence[RetrievedChunk]) -> list[RetrievedChunk]:
        if not found:
            return []
        kind, scores = self._scores(question, found)
        judged = []
        for chunk, score in zip(found, scores, strict=True):
            coverage = question.coverage(chunk.text, f"{chunk.title} {chunk.heading}", weights=(1.0, 0.7))
            judged.append(replace(chunk, score=question.blend(kind, score, coverage), rerank_score=score))
        return sorted(judged, key=lambda chunk: -chunk.score)  # stable: equal scores keep the fused order

    def _scores(self, question: Question, found: Sequence[RetrievedChunk]) -> tuple[RerankerKind, list[float]]:
        if self._reranker is not None:
            return self._reranker.kind, self._reranker.score(question.text, [in_context(chunk) for chunk in found])
        cosines = [chunk.rerank_score for chunk in found if chunk.rerank_score is not None]
        assert len(cosines) == len(found), "every chunk of a snapshot has its vector"
        return "bi-encoder", cosines


def in_context(chunk: Chunk) -> str:
    """What a reranker reads: the passage under its title and headings, for it rarely says again what they say."""
    return f"{chunk.context}\n{chunk.text}" if chunk.context else chunk.text


def fuse(rankings: Sequence[Sequence[tuple[int, float]]], weights: Sequence[float]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: each list gives ``weight / (60 + rank)`` to each of its ids; best first.

    >>> [i for i, _ in fuse([[(1, 0.9), (2, 0.8)], [(2, 7.0), (3, 5.0)]], [1.0, 1.0])]
    [2, 1, 3]
    """
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, (chunk_id, _) in enumerate(ranking, start=1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + weight / (_RRF_K + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


def as_retrieved(
    chunk: Chunk,
    *,
    score: float,
    dense_score: float | None = None,
    lexical_score: float | None = None,
    rerank_score: float | None = None,
) -> RetrievedChunk:
    """A chunk with its scores."""
    return RetrievedChunk(
        id=chunk.id,
        document_id=chunk.document_id,
        source=chunk.source,
        title=chunk.title,
        media_type=chunk.media_type,
        ordinal=chunk.ordinal,
        start=chunk.start,
        end=chunk.end,
        text=chunk.text,
        page=chunk.page,
        section=chunk.section,
        metadata=chunk.metadata,
        score=score,
        dense_score=dense_score,
        lexical_score=lexical_score,
        rerank_score=rerank_score,
    )
