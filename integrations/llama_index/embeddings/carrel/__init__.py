"""carrel's embedding models in LlamaIndex, in this process or over HTTP."""

from llama_index.embeddings.carrel.base import CarrelEmbedding

__all__ = ["CarrelEmbedding"]
