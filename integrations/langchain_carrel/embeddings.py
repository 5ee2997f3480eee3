"""carrel's embedding models as LangChain embeddings. Translates and does nothing else."""

from __future__ import annotations

from carrel_client import EmbeddingFields
from langchain_core.embeddings import Embeddings


class CarrelEmbeddings(EmbeddingFields, Embeddings):
    """An embedding model of carrel, in this process or over HTTP.

    A query is embedded with the model's query prompt, a document with its document prompt, where the model has them.

    Args:
        model, llm, base_url: as for ``ChatCarrel``.
        dimensions: keep so many components, of models trained for it.
        truncate: cut texts that are longer than the model's limit, instead of refusing them.

    Example:
        .. code-block:: python

            from langchain_carrel import CarrelEmbeddings

            with CarrelEmbeddings(model="starter/embedding") as embeddings:
                vector = embeddings.embed_query("分页注意力是什么？")  # 384 floats
    """

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text, in the order of the texts; a blank text gets that of a full stop."""
        return self.vectors(texts)

    def embed_query(self, text: str) -> list[float]:
        return self.query_vector(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await self.avectors(texts)

    async def aembed_query(self, text: str) -> list[float]:
        return await self.aquery_vector(text)
