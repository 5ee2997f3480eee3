"""What this package asks of models. Knows no engine: ``engine_models`` binds these to one, tests bind them to fakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
RerankerKind = Literal["cross-encoder", "small-cross-encoder", "bi-encoder"]
Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": …}


class TokenCounter(Protocol):
    """Counts tokens of plain text, without special tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """One count per text."""
        ...


class Embedder(TokenCounter, Protocol):
    """Turns text into unit vectors; queries and documents may carry different prompts."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """The most tokens of text that one vector takes in, special tokens and prompt already taken off."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """All that makes two vectors comparable: model, dimension, pooling, prompts."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> FloatArray:
        """``[len(texts), dim]``, fp32, each row of length 1."""
        ...

    def embed_query(self, text: str) -> FloatArray:
        """``[dim]``, fp32, of length 1."""
        ...


class Reranker(Protocol):
    """Scores how well texts answer a question."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> RerankerKind:
        """A small cross-encoder and a bi-encoder's cosine are weaker judges; callers mix them with other evidence."""
        ...

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score in 0..1 per text (a bi-encoder: the cosine, which may be below 0)."""
        ...


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """The best answer to a question that a text holds, were there one: ``text[start:end]``."""

    start: int  # in characters
    end: int
    score: float  # of the span: the logits of its start and its end, added
    relevance: float  # of the whole text, as :meth:`Reranker.score` gives it


@runtime_checkable
class SpanFinder(Reranker, Protocol):
    """A reranker that also says where in a text the answer stands."""

    def find_spans(self, question: str, texts: Sequence[str]) -> list[FoundSpan]:
        """One per text."""
        ...


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """A piece of a reply. The counts are totals so far; ``finish_reason`` stands on the last piece."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str | None = None


class ChatModel(Protocol):
    """Writes an answer."""

    @property
    def name(self) -> str: ...

    @property
    def is_starter(self) -> bool:
        """The bundled reader, too small to be asked for answers."""
        ...

    @property
    def max_model_len(self) -> int: ...

    def count_message_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt, template included."""
        ...

    def stream_chat(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, grammar: str | None = None
    ) -> Iterator[ChatDelta]:
        """The reply in pieces; closing the iterator stops the model. ``grammar``: Lark that it is held to."""
        ...
