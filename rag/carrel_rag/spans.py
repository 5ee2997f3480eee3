"""Short answers without a chat model: the span of a passage that a reranker points at, and its sentence as the quote.

::

    passage   sentence sentence sentence sentence     what is quoted: see quotes
    windows   [----- read at once ----]
                                [---------------]     the last sentence once more, if it is short
    found            ▔▔▔▔▔                            whole words, without the marks around them

Windows are as long as those that the starter reranker learned from. Of each one the reranker says how relevant it is
and which span of it answers best; the answer is the span for which both together are highest. There is none where no
window is relevant enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carrel_rag.citations import make_citation
from carrel_rag.extractive import ExtractiveConfig
from carrel_rag.protocols import FoundSpan, SpanFinder
from carrel_rag.quotes import MARKED_UP, quotable, quote_around
from carrel_rag.schema import Citation, RetrievedChunk
from carrel_rag.sentences import Range
from carrel_rag.text import is_cjk
from carrel_rag.words import WORD, trimmed, whole_words

_SHORT = 0.35  # of a window: a sentence that is read twice


@dataclass(frozen=True)
class _Window:
    number: int  # of the passage, from 1
    chunk: RetrievedChunk
    start: int  # in the chunk's text
    end: int

    @property
    def text(self) -> str:
        return self.chunk.text[self.start : self.end]

    def place(self, span: FoundSpan) -> Range:
        """Where the span lies in the chunk: its whole words; empty if there is none in it."""
        if span.start >= span.end:
            return span.start, span.start
        text = self.chunk.text
        return trimmed(text, *whole_words(text, self.start + span.start, self.start + span.end))


def extract_span(
    question: str, chunks: Sequence[RetrievedChunk], finder: SpanFinder, config: ExtractiveConfig
) -> tuple[str, tuple[Citation, ...]]:
    """The text with its ``[n]``, and the citation; ``("", ())`` when nothing is relevant enough."""
    windows = [window for number, chunk in enumerate(chunks, start=1) for window in _windows(number, chunk, config)]
    windows = windows[: config.max_windows]
    spans = finder.find_spans(question, [window.text for window in windows]) if windows else []
    if max((span.relevance for span in spans), default=0.0) < config.min_relevance:
        return "", ()
    best, rank = None, -math.inf
    for window, span in zip(windows, spans, strict=True):
        start, end = window.place(span)
        if start < end and (found := _rank(span, config)) > rank:  # of equal ones the first: the better passage
            best, rank = (window, span, start, end), found
    if best is None:
        return "", ()
    window, span, start, end = best
    chunk = window.chunk
    citation = make_citation(window.number, chunk, *quote_around(quotable(chunk), start, end), score=span.relevance)
    answer = chunk.text[start:end]
    shown = answer if chunk.media_type in MARKED_UP else " ".join(answer.split())  # wrapped lines become one
    return f"{shown} [{window.number}]", (citation,)


def _rank(span: FoundSpan, config: ExtractiveConfig) -> float:
    """Both kinds of evidence as logits, so that neither can be lost in the other."""
    relevance = min(max(span.relevance, 1e-9), 1 - 1e-9)
    return math.log(relevance / (1 - relevance)) + config.span_weight * span.score


def _windows(number: int, chunk: RetrievedChunk, config: ExtractiveConfig) -> Iterator[_Window]:
    """Whole sentences, as many as fit; a longer passage is cut into windows of about the same size."""
    ranges = [part for place in quotable(chunk) for part in _parts(chunk.text, place, config)]
    sizes = [_size(chunk.text[start:end], config) for start, end in ranges]
    if not any(map(str.isalnum, chunk.text)) or not ranges:
        return
    share = sum(sizes) / max(1, math.ceil(sum(sizes)))
    first, filled = 0, 0.0
    for i, size in enumerate(sizes):
        if i > first and (filled + size > 1 or filled >= share):
            yield _Window(number, chunk, ranges[first][0], ranges[i - 1][1])
            again = i - 1 > first and sizes[i - 1] <= _SHORT and sizes[i - 1] + size <= 1
            first, filled = (i - 1, sizes[i - 1]) if again else (i, 0.0)
        filled += size
    yield _Window(number, chunk, ranges[first][0], ranges[-1][1])


def _parts(text: str, place: Range, config: ExtractiveConfig) -> Iterator[Range]:
    """The sentence, or pieces of one that is longer than a window; they begin with whole words."""
    start, end = place
    count = math.ceil(_size(text[start:end], config))
    step = -(-(end - start) // max(count, 1))
    while end - start > step:
        _, cut = whole_words(text, start, start + step)
        yield start, min(cut, end)
        start = min(cut, end)
    if start < end:
        yield start, end


def _size(text: str, config: ExtractiveConfig) -> float:
    """The share of a window that a text takes."""
    chinese = sum(map(is_cjk, text))
    words = sum(word.group()[0].isalnum() and not is_cjk(word.group()[0]) for word in WORD.finditer(text))
    return chinese / config.window_characters + words / config.window_words
