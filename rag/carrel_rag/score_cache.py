"""Rerankers that remember: the same question over the same passages is read once. Knows no passages' origin."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from carrel_rag.protocols import FoundSpan, Reranker, RerankerKind, SpanFinder

Found = TypeVar("Found")


class _Cache(Generic[Found]):
    """What was found for the last ``max_entries`` pairs of question and text. May be used by many threads."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, Found] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, query: str, texts: Sequence[str], find: Callable[[list[str]], Sequence[Found]]) -> list[Found]:
        """One for each text; ``find`` is asked for those that are not known yet, each once."""
        keys = [_key(query, text) for text in texts]
        known = self._look_up(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            fresh = dict(zip(missing, find(list(missing.values())), strict=True))
            self._remember(fresh)
            known |= fresh
        return [known[key] for key in keys]

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, Found]:
        with self._lock:
            found = {key: self._entries[key] for key in keys if key in self._entries}
            for key in found:
                self._entries.move_to_end(key)
            return found

    def _remember(self, fresh: dict[bytes, Found]) -> None:
        with self._lock:
            self._entries.update(fresh)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)


class CachedReranker:
    """Keeps the last ``max_entries`` scores, about 100 bytes each."""

    def __init__(self, reranker: Reranker, max_entries: int = 20_000) -> None:
        self._reranker = reranker
        self._cache: _Cache[float] = _Cache(max_entries)

    @property
    def name(self) -> str:
        return self._reranker.name

    @property
    def kind(self) -> RerankerKind:
        return self._reranker.kind

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        return self._cache.get(query, texts, lambda missing: self._reranker.score(query, missing))


class CachedSpanFinder:
    """The same for spans. Scores come with them, so that a passage which was judged need not be read again."""

    def __init__(self, finder: SpanFinder, max_entries: int = 20_000) -> None:
        self._finder = finder
        self._cache: _Cache[FoundSpan] = _Cache(max_entries)

    @property
    def name(self) -> str:
        return self._finder.name

    @property
    def kind(self) -> RerankerKind:
        return self._finder.kind

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        return [span.relevance for span in self.find_spans(query, texts)]

    def find_spans(self, question: str, texts: Sequence[str]) -> list[FoundSpan]:
        return self._cache.get(question, texts, lambda missing: self._finder.find_spans(question, missing))


def cached(reranker: Reranker) -> Reranker:
    """``reranker`` with a memory; it finds spans if that one does."""
    return CachedSpanFinder(reranker) if isinstance(reranker, SpanFinder) else CachedReranker(reranker)


def _key(query: str, text: str) -> bytes:
    digest = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\x00")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()
