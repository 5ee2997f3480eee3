"""What every embedding and rerank adapter has: fields, vectors, rankings. Knows no framework's documents."""

from __future__ import annotations

from typing import ClassVar

from carrel.config import Task
from carrel.outputs import RerankResult
from pydantic import Field

from carrel_client.backend import EmbedOptions, InputType, RerankOptions
from carrel_client.connection_fields import ConnectionFields


class EmbeddingFields(ConnectionFields):
    """An embedding model by one of the three ways in."""

    task: ClassVar[Task] = "embedding"
    dimensions: int | None = Field(default=None, ge=1)  # keep the first ones of a Matryoshka model
    truncate: bool = False  # cut a text that is longer than the model's limit, instead of refusing it

    def vectors(self, texts: list[str], input_type: InputType) -> list[list[float]]:
        """One vector for each text, in order; none for no texts."""
        return self._connection.open().embed(texts, self._embed_options(input_type)) if texts else []

    async def avectors(self, texts: list[str], input_type: InputType) -> list[list[float]]:
        """As ``vectors``."""
        if not texts:
            return []
        return await (await self._connection.aopen()).aembed(texts, self._embed_options(input_type))

    def _embed_options(self, input_type: InputType) -> EmbedOptions:
        return EmbedOptions(input_type, self.model, self.dimensions, self.truncate)


class RerankFields(ConnectionFields):
    """A reranker by one of the three ways in."""

    task: ClassVar[Task] = "rerank"
    top_n: int | None = Field(default=3, ge=1)  # how many are kept; None: all, in the new order

    def ranking(self, query: str, documents: list[str]) -> list[RerankResult]:
        """The best ``top_n``, best first; none for no documents."""
        return self._connection.open().rerank(query, documents, self._rerank_options()) if documents else []

    async def aranking(self, query: str, documents: list[str]) -> list[RerankResult]:
        """As ``ranking``."""
        if not documents:
            return []
        return await (await self._connection.aopen()).arerank(query, documents, self._rerank_options())

    def _rerank_options(self) -> RerankOptions:
        return RerankOptions(self.model, self.top_n)
