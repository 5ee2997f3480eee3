"""The passages of one language behind the pipeline's own search, and what each way to rank makes of a question.

Indexed is as the pipeline indexes documents: one document a passage, cut into chunks. Ranked are passages, each by the
best of its chunks. Knows no answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from carrel_rag.engine_models import Models
from carrel_rag.index import VectorIndex
from carrel_rag.ingest import Ingester
from carrel_rag.knowledge_base import check_fingerprint, open_store
from carrel_rag.lexical import query_terms
from carrel_rag.options import context_tokens, default_splitter, fingerprint
from carrel_rag.protocols import RerankerKind
from carrel_rag.retriever import Retrieval, Retriever, RetrieverConfig
from carrel_rag.schema import Document, RetrievedChunk
from carrel_rag.score_cache import cached

from training.evaluation.questions import Passage

NUM_SEARCH = 40  # chunks of each search, as the pipeline's default
NUM_CANDIDATES = 30  # chunks of both searches together that are judged


@dataclass(frozen=True)
class Ranking:
    """Names of passages, best first, and the seconds it took."""

    passages: tuple[str, ...]
    seconds: float


class _AsFound:
    """A reranker that likes all alike: what the retriever gives then is in the order of the fused searches."""

    name = "as found"
    kind: RerankerKind = "cross-encoder"

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        return [1.0] * len(texts)


class Library:
    """Owns one knowledge base, which is made if it is missing; the models belong to the caller."""

    def __init__(self, folder: Path, name: str, passages: Iterable[Passage], models: Models) -> None:
        splitter = default_splitter(models.embedder)
        self._store = open_store(folder, name, create=True)
        check_fingerprint(self._store, fingerprint(models.embedder, splitter), f"{folder / name}")
        self._embedder = models.embedder
        self._index = VectorIndex(self._store, self._embedder.dim)
        self.judge = f"reranker {models.reranker.name}" if models.reranker is not None else "vectors and words"
        reranker = cached(models.reranker) if models.reranker is not None else None
        wide = RetrieverConfig(top_k=NUM_CANDIDATES, num_search=NUM_SEARCH, num_rerank=NUM_CANDIDATES)
        self._plain = Retriever(self._store, self._index, self._embedder, _AsFound(), wide)
        self._judging = Retriever(self._store, self._index, self._embedder, reranker, wide)
        ingester = Ingester(self._store, self._index, self._embedder, splitter, context_tokens(self._embedder))
        documents = [Document(text=each.text, source=each.name, title=each.title) for each in passages]
        failed = ingester.add(documents, progress=True).failed
        assert not failed, f"a passage cannot be indexed: {failed[0].error}"

    def search(self, question: str) -> Retrieval:
        """What both searches find, fused, best first; not judged."""
        return self._plain.retrieve(question)

    def judged(self, question: str, chunks: Sequence[RetrievedChunk]) -> list[RetrievedChunk]:
        """The same chunks with the scores that the pipeline gives them for the question."""
        scored: dict[int, RetrievedChunk] = {}
        for passage in dict.fromkeys(chunk.source for chunk in chunks):
            scored |= {chunk.id: chunk for chunk in self.chunks_of(question, passage)}
        return [scored[chunk.id] for chunk in chunks]

    def chunks_of(self, question: str, passage: str) -> tuple[RetrievedChunk, ...]:
        """The chunks of one passage, judged for the question, best first."""
        return self._judging.retrieve(question, where={"source": passage}, top_k=NUM_SEARCH).chunks

    def rankings(self, question: str) -> dict[str, Ranking]:
        """By each way to rank."""
        dense, lexical = self._search_dense(question), self._search_lexical(question)
        plain, judged = self._plain.retrieve(question), self._judging.retrieve(question)
        return {
            "MiniLM": dense,
            "BM25": lexical,
            "both, fused": Ranking(_passages(plain.chunks), plain.retrieve_seconds),
            self.judge: Ranking(_passages(judged.chunks), judged.retrieve_seconds + judged.rerank_seconds),
        }

    def _search_dense(self, question: str) -> Ranking:
        started = time.perf_counter()
        _, found = self._index.search(self._embedder.embed_query(question), NUM_SEARCH)
        seconds = time.perf_counter() - started
        return Ranking(self._passages_of([i for i, _ in found]), seconds)

    def _search_lexical(self, question: str) -> Ranking:
        started = time.perf_counter()
        with self._store.snapshot() as now:
            found = now.search_terms(query_terms(question), NUM_SEARCH)
        seconds = time.perf_counter() - started
        return Ranking(self._passages_of([i for i, _ in found]), seconds)

    def _passages_of(self, ids: Sequence[int]) -> tuple[str, ...]:
        with self._store.snapshot() as now:
            chunks = now.chunks(ids)
        return tuple(dict.fromkeys(chunks[i].source for i in ids))

    def close(self) -> None:
        self._store.close()


def _passages(chunks: Sequence[RetrievedChunk]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chunk.source for chunk in chunks))
