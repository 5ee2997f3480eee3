"""A reranker that remembers: the same question over the same passages is scored once. Knows no passages' origin."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

from carrel_rag.protocols import Reranker, RerankerKind


class CachedReranker:
    """Keeps the last ``max_entries`` scores, about 100 bytes each. May be used by many threads."""

    def __init__(self, reranker: Reranker, max_entries: int = 20_000) -> None:
        self._reranker = reranker
        self._max_entries = max_entries
        self._scores: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._reranker.name

    @property
    def kind(self) -> RerankerKind:
        return self._reranker.kind

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        keys = [_key(query, text) for text in texts]
        known = self._look_up(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            fresh = dict(zip(missing, self._reranker.score(query, list(missing.values())), strict=True))
            self._remember(fresh)
            known |= fresh
        return [known[key] for key in keys]

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        with self._lock:
            found = {key: self._scores[key] for key in keys if key in self._scores}
            for key in found:
                self._scores.move_to_end(key)
            return found

    def _remember(self, scores: dict[bytes, float]) -> None:
        with self._lock:
            self._scores.update(scores)
            while len(self._scores) > self._max_entries:
                self._scores.popitem(last=False)


def _key(query: str, text: str) -> bytes:
    digest = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\x00")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()
