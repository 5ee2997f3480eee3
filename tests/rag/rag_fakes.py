"""Models for tests of the pipeline: small, deterministic, and honest about words (texts that share terms are near)."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from carrel_rag.lexical import index_terms, query_terms
from carrel_rag.protocols import ChatDelta, FloatArray, FoundSpan, Message, RerankerKind

DIM = 64


class WordCounter:
    """A token is a Latin word or one other character."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [count_words(text) for text in texts]


def count_words(text: str) -> int:
    count, in_word = 0, False
    for char in text:
        latin = char.isascii() and char.isalnum()
        count += not char.isspace() and not (latin and in_word)
        in_word = latin
    return count


class FakeEmbedder(WordCounter):
    """Adds one random direction per term, so that the cosine is the share of common terms."""

    def __init__(
        self, name: str = "fake", *, max_tokens: int = 256, before_embedding: Callable[[], None] | None = None
    ) -> None:
        self.name = name
        self.dim = DIM
        self.max_tokens = max_tokens
        self.num_texts = 0
        self._before_embedding = before_embedding
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {"embedding_model": self.name, "embedding_dim": str(self.dim)}

    def embed_documents(self, texts: Sequence[str]) -> FloatArray:
        if self._before_embedding is not None:
            self._before_embedding()
        with self._lock:
            self.num_texts += len(texts)
        return np.stack([_vector(index_terms(text)) for text in texts])

    def embed_query(self, text: str) -> FloatArray:
        return _vector(query_terms(text))


def _vector(terms: Sequence[str]) -> FloatArray:
    total = np.full(DIM, 1e-6, np.float32)
    for term in terms:
        seed = int.from_bytes(hashlib.sha256(term.encode()).digest()[:4], "big")
        total += np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return total / np.float32(np.linalg.norm(total))


class FakeReranker:
    """The share of the question's terms that a text holds; counts the pairs it was asked to score."""

    name = "fake-reranker"

    def __init__(self, kind: RerankerKind = "bi-encoder") -> None:
        self.kind: RerankerKind = kind
        self.num_pairs = 0

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        self.num_pairs += len(texts)
        terms = set(query_terms(query))
        return [len(terms & set(index_terms(text))) / max(1, len(terms)) for text in texts]


class ScriptedChat(WordCounter):
    """Says what it was told to, a few characters at a time; remembers what it was asked."""

    name = "scripted"
    is_starter = False

    def __init__(self, reply: str, *, max_model_len: int = 4096, piece: int = 3, pause: float = 0.0) -> None:
        self._reply = reply
        self._pause = pause  # seconds before each piece
        self._piece = piece
        self.max_model_len = max_model_len
        self.asked: list[list[Message]] = []
        self.grammars: list[str | None] = []
        self.closed = threading.Event()

    def count_message_tokens(self, messages: Sequence[Message]) -> int:
        return sum(count_words(message["content"]) + 4 for message in messages)

    def stream_chat(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, grammar: str | None = None
    ) -> Iterator[ChatDelta]:
        self.grammars.append(grammar)
        self.asked.append(list(messages))
        prompt_tokens = self.count_message_tokens(messages)
        try:
            for count, start in enumerate(range(0, len(self._reply), self._piece), start=1):
                piece = self._reply[start : start + self._piece]
                last = start + self._piece >= len(self._reply)
                time.sleep(self._pause)
                yield ChatDelta(piece, prompt_tokens, count, "stop" if last else None)
        finally:
            self.closed.set()


class WordFinder(FakeReranker):
    """A reranker that finds the first place of any of the words it was told; relevant is the text that holds one."""

    def __init__(self, *words: str, relevance: float = 0.8, pad: int = 0, kind: RerankerKind = "cross-encoder") -> None:
        super().__init__(kind)
        self._words = words
        self._relevance = relevance
        self._pad = pad  # characters by which each span is too short on both sides
        self.read: list[str] = []

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        return [span.relevance for span in self.find_spans(query, texts)]

    def find_spans(self, question: str, texts: Sequence[str]) -> list[FoundSpan]:
        self.read += texts
        return [self._find(text) for text in texts]

    def _find(self, text: str) -> FoundSpan:
        for rank, word in enumerate(self._words):
            if (at := text.find(word)) >= 0:
                return FoundSpan(at + self._pad, at + len(word) - self._pad, 5.0 - rank, self._relevance - 0.1 * rank)
        return FoundSpan(0, 1, -5.0, 0.01)
