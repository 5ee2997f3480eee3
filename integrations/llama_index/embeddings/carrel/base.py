"""carrel's embedding models in LlamaIndex. Translates and does nothing else."""

from __future__ import annotations

from typing import Any

from carrel_client import EmbeddingFields
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import ConfigDict, Field, model_validator


class CarrelEmbedding(BaseEmbedding, EmbeddingFields):
    """An embedding model of carrel, in this process or over HTTP.

    A query is embedded with the model's query prompt, a text with its document prompt, where the model has them.

    Args:
        model, llm, base_url: as for ``llama_index.llms.carrel.Carrel``; ``model_name`` is taken for ``model``.
        dimensions: keep so many components, of models trained for it.
        truncate: cut texts that are longer than the model's limit, instead of refusing them.

    Example:
        .. code-block:: python

            from llama_index.embeddings.carrel import CarrelEmbedding

            with CarrelEmbedding(model="starter/embedding") as embedding:
                vector = embedding.get_query_embedding("分页注意力是什么？")  # 384 floats
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    embed_batch_size: int = Field(default=256, gt=0, le=2048)  # the engine batches by tokens; this paces progress bars

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, data: Any) -> Any:
        """LlamaIndex calls it ``model_name``, carrel ``model``: either sets both."""
        if not isinstance(data, dict):
            return data
        name = data.get("model") or data.get("model_name")
        return {**data, "model": name, "model_name": name} if name and name != "unknown" else data

    @classmethod
    def class_name(cls) -> str:
        return "CarrelEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.query_vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self.aquery_vector(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.vectors([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self.avectors([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self.vectors(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self.avectors(texts)
