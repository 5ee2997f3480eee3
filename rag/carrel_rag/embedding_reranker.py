"""Judging by the embedder's cosine where there is no rerank model. Knows only the Embedder protocol."""

from __future__ import annotations

from collections.abc import Sequence

from carrel_rag.protocols import Embedder, RerankerKind


class EmbeddingReranker:
    """The cosine of question and text, named as what it is: a bi-encoder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def name(self) -> str:
        return self._embedder.name

    @property
    def kind(self) -> RerankerKind:
        return "bi-encoder"

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        return [float(cosine) for cosine in self._embedder.embed_documents(texts) @ self._embedder.embed_query(query)]
