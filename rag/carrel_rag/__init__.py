"""Question answering over documents: load, split, store, retrieve, rerank, answer with citations.

>>> from carrel_rag import RAGPipeline, Document

Importing carrel_rag imports neither faiss nor a reader of documents: each public name loads its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrel_rag.errors import (
        DocumentError,
        KnowledgeBaseClosedError,
        KnowledgeBaseError,
        KnowledgeBaseMismatchError,
        RAGError,
        SourceNotFoundError,
    )
    from carrel_rag.extractive import ExtractiveConfig
    from carrel_rag.knowledge_base import list_knowledge_bases, parse_location
    from carrel_rag.loaders import Limits, load_file
    from carrel_rag.pipeline import RAGPipeline
    from carrel_rag.retriever import RetrieverConfig
    from carrel_rag.schema import (
        Answer,
        AnswerEvent,
        Chunk,
        Citation,
        CitationEvent,
        DeltaEvent,
        Document,
        DocumentInfo,
        Event,
        FileStatus,
        IngestReport,
        NoContextEvent,
        RetrievedChunk,
        RetrievedEvent,
        Timings,
        Usage,
    )
    from carrel_rag.splitter import SplitterConfig

_HOMES = {
    "Answer": "schema",
    "AnswerEvent": "schema",
    "Chunk": "schema",
    "Citation": "schema",
    "CitationEvent": "schema",
    "DeltaEvent": "schema",
    "Document": "schema",
    "DocumentError": "errors",
    "DocumentInfo": "schema",
    "Event": "schema",
    "ExtractiveConfig": "extractive",
    "FileStatus": "schema",
    "IngestReport": "schema",
    "KnowledgeBaseClosedError": "errors",
    "KnowledgeBaseError": "errors",
    "KnowledgeBaseMismatchError": "errors",
    "Limits": "loaders",
    "NoContextEvent": "schema",
    "RAGError": "errors",
    "RAGPipeline": "pipeline",
    "RetrievedChunk": "schema",
    "RetrievedEvent": "schema",
    "RetrieverConfig": "retriever",
    "SourceNotFoundError": "errors",
    "SplitterConfig": "splitter",
    "Timings": "schema",
    "Usage": "schema",
    "list_knowledge_bases": "knowledge_base",
    "load_file": "loaders",
    "parse_location": "knowledge_base",
}

__all__ = [
    "Answer",
    "AnswerEvent",
    "Chunk",
    "Citation",
    "CitationEvent",
    "DeltaEvent",
    "Document",
    "DocumentError",
    "DocumentInfo",
    "Event",
    "ExtractiveConfig",
    "FileStatus",
    "IngestReport",
    "KnowledgeBaseClosedError",
    "KnowledgeBaseError",
    "KnowledgeBaseMismatchError",
    "Limits",
    "NoContextEvent",
    "RAGError",
    "RAGPipeline",
    "RetrievedChunk",
    "RetrievedEvent",
    "RetrieverConfig",
    "SourceNotFoundError",
    "SplitterConfig",
    "Timings",
    "Usage",
    "list_knowledge_bases",
    "load_file",
    "parse_location",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'carrel_rag' has no attribute {name!r}")
    return getattr(importlib.import_module(f"carrel_rag.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
