"""carrel as a LlamaIndex LLM, in this process or over HTTP."""

from llama_index.llms.carrel.base import Carrel

__all__ = ["Carrel"]
