"""What can be chosen for one question, and what follows from a model for a whole knowledge base. Knows no database."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict

from carrel.errors import InvalidParamsError

from carrel_rag.protocols import Embedder
from carrel_rag.schema import MetadataValue, Mode
from carrel_rag.splitter import SPLITTER_VERSION, SplitterConfig
from carrel_rag.store_schema import STORE_VERSION

_CONTEXT_SHARE = 5  # a fifth of the embedder's tokens, at most, goes to title and headings
_MAX_CONTEXT_TOKENS = 48
MAX_TOP_K = 1000  # passages of one question; SQLite itself fails only far above


class AskOptions(TypedDict, total=False):
    """The keyword arguments of a question; :meth:`RAGPipeline.stream` says what each means."""

    top_k: int | None
    min_score: float | None
    where: Mapping[str, MetadataValue] | None
    mode: Mode | None
    max_tokens: int | None
    temperature: float
    constrain: bool | None


def check_mode(mode: Mode) -> Mode:
    """``mode`` itself.

    Raises:
        InvalidParamsError: it is none.
    """
    if mode not in ("auto", "generative", "extractive"):
        raise InvalidParamsError(f"mode must be 'auto', 'generative' or 'extractive', got {mode!r}.", param="mode")
    return mode


def check_question(question: str, top_k: int | None) -> None:
    """
    Raises:
        InvalidParamsError: no question, or no number of passages that can be had.
    """
    if not isinstance(question, str):
        raise InvalidParamsError(f"the question must be a string, got {type(question).__name__}.", param="question")
    if not question.strip():
        raise InvalidParamsError("the question is empty.", param="question")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise InvalidParamsError(f"top_k must be a whole number of at least 1, got {top_k!r}.", param="top_k")
    if top_k is not None and top_k > MAX_TOP_K:  # not shown: Python refuses to write very long numbers
        raise InvalidParamsError(f"top_k must be at most {MAX_TOP_K:,} passages.", param="top_k")


def check_metadata(metadata: Mapping[str, MetadataValue], param: str) -> None:
    """
    Raises:
        InvalidParamsError: a value that cannot be stored and compared.
    """
    for key, value in metadata.items():
        if not _is_key(key) or not _is_value(value):
            raise InvalidParamsError(
                f"{param} holds {key!r}: {_shown(value)}; values are strings, finite numbers of at most 64 bits, true,"
                r' false, None, keys strings without ", \ and control characters.',
                param=param,
            )


def _is_key(key: object) -> bool:
    """Whether SQLite finds the key again: its JSON paths know no escapes, so it finds nothing under the others."""
    return isinstance(key, str) and _is_unicode(key) and not any(char in '"\\' or char < " " for char in key)


def _is_value(value: object) -> bool:
    """Whether JSON can hold the value and SQLite compare it."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str) and _is_unicode(value))


def _is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which no file can hold as UTF-8."""
    return text.isprintable() or not any("\ud800" <= char <= "\udfff" for char in text)


def _shown(value: object) -> str:
    """A value in a message; Python refuses to write very long numbers."""
    return f"a number of {value.bit_length()} bits" if isinstance(value, int) else repr(value)


def context_tokens(embedder: Embedder) -> int:
    """Tokens kept free for title and headings in front of each chunk."""
    return min(_MAX_CONTEXT_TOKENS, embedder.max_tokens // _CONTEXT_SHARE)


def default_splitter(embedder: Embedder) -> SplitterConfig:
    """192 tokens a chunk, or what the embedder takes beside title and headings."""
    chunk = max(16, min(SplitterConfig().chunk_tokens, embedder.max_tokens - context_tokens(embedder) - 2))
    return SplitterConfig(chunk_tokens=chunk, overlap_tokens=min(SplitterConfig().overlap_tokens, chunk // 4))


def fingerprint(embedder: Embedder, splitter: SplitterConfig) -> dict[str, str]:
    """All that must stay the same over the life of a knowledge base."""
    return {
        **embedder.fingerprint,
        "store": STORE_VERSION,
        "splitter": SPLITTER_VERSION,
        "chunk_tokens": str(splitter.chunk_tokens),
        "overlap_tokens": str(splitter.overlap_tokens),
    }
