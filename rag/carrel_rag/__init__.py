"""Question answering over documents: load, split, store, retrieve, rerank, answer with citations.

>>> from carrel_rag import RAGPipeline, Document
"""

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
