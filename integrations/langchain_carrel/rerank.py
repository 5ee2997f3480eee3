"""carrel's rerankers as a LangChain document compressor. Translates and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from carrel.outputs import RerankResult
from carrel_client import RerankFields
from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict


class CarrelRerank(BaseDocumentCompressor, RerankFields):
    """A reranker of carrel, in this process or over HTTP.

    Args:
        model, llm, base_url: as for ``ChatCarrel``.
        top_n: how many documents are kept, best first; None keeps all.

    Example:
        .. code-block:: python

            from langchain_carrel import CarrelRerank

            with CarrelRerank(model="starter/reranker", top_n=2) as rerank:
                best = rerank.compress_documents(documents, "分页注意力是什么？")
                best[0].metadata["relevance_score"]  # 0..1
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Copies of the best documents, best first, with ``relevance_score`` (0..1) in their metadata."""
        return _ranked(documents, self.ranking(query, _texts(documents)))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As ``compress_documents``."""
        return _ranked(documents, await self.aranking(query, _texts(documents)))


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _ranked(documents: Sequence[Document], results: Sequence[RerankResult]) -> list[Document]:
    return [_scored(documents[result.index], result.relevance_score) for result in results]


def _scored(document: Document, score: float) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
