"""Short answers without a chat model: the span of a passage that a reranker points at, and its sentence as the quote.

Of each window (see there) the reranker says how relevant it is, and which span of it answers best. The answer is the
span for which both are highest together, with a little for the question's own words around it: in whole words, without
the marks around them. There is none where no window is relevant enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from carrel_rag.citations import make_citation
from carrel_rag.extractive import ExtractiveConfig
from carrel_rag.protocols import FoundSpan, SpanFinder
from carrel_rag.quotes import cell_around, is_question, paragraphs, quotable, quote_around, shown
from carrel_rag.relevance import Question, log_odds
from carrel_rag.schema import Citation, RetrievedChunk
from carrel_rag.sentences import Range
from carrel_rag.windows import Window, WindowSize, cut_windows
from carrel_rag.words import trimmed, whole_words


@dataclass(frozen=True)
class Evidence:
    """What the reranker and the question's words say of one window, and where its answer and the quote stand."""

    window: Window
    relevance: float  # 0 to 1: that the window answers
    coverage: float  # of the question's words, by the quote
    span: float  # the reranker's score of the answer, of any size
    answer: Range  # in the chunk's text
    quote: Range

    @property
    def text(self) -> str:
        return shown(self.window.chunk, *self.answer)


@dataclass(frozen=True)
class Candidate:
    """An answer that may be given. ``score`` orders those to one question; ``relevance`` is 0 to 1, words included."""

    evidence: Evidence
    relevance: float
    score: float

    @property
    def text(self) -> str:
        """The answer with its number."""
        return f"{self.evidence.text} [{self.evidence.window.number}]"

    @property
    def citation(self) -> Citation:
        window = self.evidence.window
        return make_citation(window.number, window.chunk, *self.evidence.quote, score=self.relevance)


def extract_span(
    question: Question, chunks: Sequence[RetrievedChunk], finder: SpanFinder, config: ExtractiveConfig
) -> tuple[str, tuple[Citation, ...]]:
    """The text with its ``[n]``, and the citation; ``("", ())`` when nothing is relevant enough."""
    for best in find_candidates(question, chunks, finder, config):
        return best.text, (best.citation,)
    return "", ()


def find_candidates(
    question: Question, chunks: Sequence[RetrievedChunk], finder: SpanFinder, config: ExtractiveConfig
) -> list[Candidate]:
    """One of each window, best first; none when not one of the windows is relevant enough.

    The question's words help to choose, not to judge: a question that is made to look answerable shares its words.
    """
    found = []
    for each in evidence_of(question, chunks, finder, config):
        relevance = question.blend(finder.kind, each.relevance, each.coverage)
        # Both are added up as logits, so that none can be lost in the other.
        found.append(Candidate(each, relevance, log_odds(relevance) + config.span_weight * each.span))
    if max((each.evidence.relevance for each in found), default=0.0) < config.min_relevance:
        return []
    return sorted(found, key=lambda each: -each.score)  # of equal ones the first: the better passage


def evidence_of(
    question: Question, chunks: Sequence[RetrievedChunk], finder: SpanFinder, config: ExtractiveConfig
) -> list[Evidence]:
    """Of each window in which a word can be pointed at, in the order of the passages."""
    size = WindowSize(config.window_words, config.window_characters)
    windows = [window for number, chunk in enumerate(chunks, start=1) for window in cut_windows(number, chunk, size)]
    windows = _most_promising(question, windows, config.max_windows)
    found = []
    for window, span in zip(windows, _find(question.text, windows, finder, config.min_relevance), strict=True):
        answer, quote = _place(window, span)
        if answer[0] < answer[1]:
            chunk = window.chunk
            heading = f"{chunk.title} {chunk.heading}"
            asked = is_question(chunk.text[window.start : quote[0]].rstrip())  # what is answered counts, too
            told = chunk.text[window.start if asked else quote[0] : quote[1]]
            coverage = question.coverage(told, heading, weights=(1.0, 0.6))
            found.append(Evidence(window, span.relevance, coverage, span.score, answer, quote))
    return [each for each in found if each.text]


def _most_promising(question: Question, windows: Sequence[Window], limit: int) -> list[Window]:
    """At most ``limit``, in their order: those that hold most of the question's words, for a table has many rows."""
    if len(windows) <= limit:
        return list(windows)
    held = [question.coverage(window.text, window.chunk.context, weights=(1.0, 0.6)) for window in windows]
    best = sorted(range(len(windows)), key=lambda i: -held[i])[:limit]
    return [windows[i] for i in sorted(best)]


def _find(question: str, windows: Sequence[Window], finder: SpanFinder, min_relevance: float) -> Iterator[FoundSpan]:
    """The span of each window, counted from its lead. One that lies in the lead is no answer; a relevant window is then
    read again alone."""
    spans = finder.find_spans(question, [window.lead + window.text for window in windows]) if windows else []
    for window, span in zip(windows, spans, strict=True):
        lead = len(window.lead)
        if span.end > lead or span.relevance < min_relevance:
            yield span
        else:
            (alone,) = finder.find_spans(question, [window.text])
            yield FoundSpan(lead + alone.start, lead + alone.end, alone.score, span.relevance)


def _place(window: Window, span: FoundSpan) -> tuple[Range, Range]:
    """Where span and quote lie in the chunk; the first is empty if no word is in it."""
    chunk, ranges = window.chunk, quotable(window.chunk)
    begin = window.start - len(window.lead)
    start, end = max(window.start, begin + span.start), begin + span.end
    if start >= end:
        return (start, start), (start, start)
    start, end = _within_paragraph(chunk, ranges, *whole_words(chunk.text, start, end))
    start, end = _past_questions(chunk.text, ranges, start, end)
    quote = quote_around(ranges, start, end)
    first, last = cell_around(chunk.text[quote[0] : quote[1]], start - quote[0], end - quote[0])
    return trimmed(chunk.text, quote[0] + first, quote[0] + last), quote


def _within_paragraph(chunk: RetrievedChunk, ranges: Sequence[Range], start: int, end: int) -> Range:
    """Of a span that runs on into the next line, the longer part."""
    lines = [(group[0][0], group[-1][1]) for group in paragraphs(chunk, ranges)]
    first, last = max(lines, key=lambda line: min(end, line[1]) - max(start, line[0]))
    return max(start, first), min(end, last)


def _past_questions(text: str, ranges: Sequence[Range], start: int, end: int) -> Range:
    """Without a question at its beginning, for that is no answer; of nothing else, the sentence that follows it."""
    for (first, last), (after, following) in pairwise(ranges):
        if first <= start < last and is_question(text[first:last]):
            if end <= after and not is_question(text[after:following]):
                return after, following
            start = min(after, end)
    asks = any(first <= start < last and is_question(text[first:last]) for first, last in ranges[-1:])
    return (end, end) if asks else (start, end)
