"""carrel's rerankers as a LlamaIndex node postprocessor, in this process or over HTTP."""

from llama_index.postprocessor.carrel.base import CarrelRerank

__all__ = ["CarrelRerank"]
