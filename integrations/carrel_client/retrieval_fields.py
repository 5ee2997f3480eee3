"""What every embedding and rerank adapter has: fields, vectors, rankings. Knows no framework's documents."""

from __future__ import annotations

from typing import ClassVar

from carrel.config import Task
from carrel.errors import InvalidParamsError
from carrel.outputs import RerankResult
from pydantic import Field

from carrel_client.backend import EmbedOptions, InputType, RerankOptions
from carrel_client.connection_fields import ConnectionFields

BLANK = "."  # says as little as an empty text, and every server takes it


class EmbeddingFields(ConnectionFields):
    """An embedding model by one of the three ways in."""

    task: ClassVar[Task] = "embedding"
    dimensions: int | None = Field(default=None, ge=1)  # keep the first ones of a Matryoshka model
    truncate: bool = False  # cut a text that is longer than the model's limit, instead of refusing it

    def vectors(self, texts: list[str]) -> list[list[float]]:
        """One vector for each text, in order, for blank ones too; none for no texts."""
        if not texts:
            return []
        return self._connection.open().embed(_with_content(texts), self._embed_options("document"))

    async def avectors(self, texts: list[str]) -> list[list[float]]:
        """As ``vectors``."""
        if not texts:
            return []
        return await (await self._connection.aopen()).aembed(_with_content(texts), self._embed_options("document"))

    def query_vector(self, query: str) -> list[float]:
        """
        Raises:
            InvalidParamsError: the query is blank.
        """
        return self._connection.open().embed([_checked_query(query)], self._embed_options("query"))[0]

    async def aquery_vector(self, query: str) -> list[float]:
        """As ``query_vector``."""
        backend = await self._connection.aopen()
        return (await backend.aembed([_checked_query(query)], self._embed_options("query")))[0]

    def _embed_options(self, input_type: InputType) -> EmbedOptions:
        return EmbedOptions(input_type, self.model, self.dimensions, self.truncate)


class RerankFields(ConnectionFields):
    """A reranker by one of the three ways in."""

    task: ClassVar[Task] = "rerank"
    top_n: int | None = Field(default=3, ge=1)  # how many are kept; None: all, in the new order

    def ranking(self, query: str, documents: list[str]) -> list[RerankResult]:
        """The best ``top_n``, best first; none for no documents.

        Raises:
            InvalidParamsError: the query is blank.
        """
        if not documents:
            return []
        return self._connection.open().rerank(_checked_query(query), documents, self._rerank_options())

    async def aranking(self, query: str, documents: list[str]) -> list[RerankResult]:
        """As ``ranking``."""
        if not documents:
            return []
        return await (await self._connection.aopen()).arerank(_checked_query(query), documents, self._rerank_options())

    def _rerank_options(self) -> RerankOptions:
        return RerankOptions(self.model, self.top_n)


def _with_content(texts: list[str]) -> list[str]:
    """Blank texts stand as a full stop: a loader's empty page must not shift or stop the others."""
    return [text if text.strip() else BLANK for text in texts]


def _checked_query(query: str) -> str:
    if not query.strip():
        raise InvalidParamsError("The query is blank: there is nothing to search for.", param="query")
    return query
