"""Short answers without a chat model: the span of a passage that a reranker points at, and its sentence as the quote.

Of each window (see there) the reranker says how relevant it is, and which span of it answers best. The answer is the
span for which both are highest together, with a little for the question's own words around it: in whole words, without
the marks around them. There is none where no window is relevant enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from carrel_rag.citations import make_citation
from carrel_rag.extractive import ExtractiveConfig
from carrel_rag.protocols import FoundSpan, SpanFinder
from carrel_rag.quotes import MARKED_UP, cell_around, paragraphs, quotable, quote_around
from carrel_rag.relevance import Question
from carrel_rag.schema import Citation, RetrievedChunk
from carrel_rag.sentences import Range
from carrel_rag.windows import Window, WindowSize, cut_windows
from carrel_rag.words import trimmed, whole_words


def extract_span(
    question: Question, chunks: Sequence[RetrievedChunk], finder: SpanFinder, config: ExtractiveConfig
) -> tuple[str, tuple[Citation, ...]]:
    """The text with its ``[n]``, and the citation; ``("", ())`` when nothing is relevant enough."""
    size = WindowSize(config.window_words, config.window_characters)
    windows = [window for number, chunk in enumerate(chunks, start=1) for window in cut_windows(number, chunk, size)]
    windows = windows[: config.max_windows]
    spans = finder.find_spans(question.text, [window.text for window in windows]) if windows else []
    if max((span.relevance for span in spans), default=0.0) < config.min_relevance:
        return "", ()
    best, highest = None, -math.inf
    for window, span in zip(windows, spans, strict=True):
        answer, quote = _place(window, span)
        if answer[0] < answer[1]:
            rank = _rank(question, window.chunk, quote, span, config)
            if rank > highest:  # of equal ones the first: the better passage
                best, highest = (window, span, answer, quote), rank
    if best is None:
        return "", ()
    window, span, (start, end), quote = best
    text = window.chunk.text[start:end]
    shown = text if window.chunk.media_type in MARKED_UP else " ".join(text.split())  # wrapped lines become one
    citation = make_citation(window.number, window.chunk, *quote, score=span.relevance)
    return f"{shown} [{window.number}]", (citation,)


def _rank(question: Question, chunk: RetrievedChunk, quote: Range, span: FoundSpan, config: ExtractiveConfig) -> float:
    """The evidence added up as logits, so that none can be lost in the other."""
    relevance = min(max(span.relevance, 1e-9), 1 - 1e-9)
    heading = f"{chunk.title} {chunk.heading}"
    coverage = question.coverage(chunk.text[quote[0] : quote[1]], heading, weights=(1.0, 0.6))
    odds = math.log(relevance / (1 - relevance))
    return odds + config.span_weight * span.score + config.coverage_weight * coverage


def _place(window: Window, span: FoundSpan) -> tuple[Range, Range]:
    """Where span and quote lie in the chunk; the first is empty if no word is in it."""
    chunk, ranges = window.chunk, quotable(window.chunk)
    start, end = window.start + span.start, window.start + span.end
    if start >= end:
        return (start, start), (start, start)
    start, end = _within_paragraph(chunk, ranges, *whole_words(chunk.text, start, end))
    quote = quote_around(ranges, start, end)
    first, last = cell_around(chunk.text[quote[0] : quote[1]], start - quote[0], end - quote[0])
    return trimmed(chunk.text, quote[0] + first, quote[0] + last), quote


def _within_paragraph(chunk: RetrievedChunk, ranges: Sequence[Range], start: int, end: int) -> Range:
    """Of a span that runs on into the next line, the longer part."""
    lines = [(group[0][0], group[-1][1]) for group in paragraphs(chunk, ranges)]
    first, last = max(lines, key=lambda line: min(end, line[1]) - max(start, line[0]))
    return max(start, first), min(end, last)
