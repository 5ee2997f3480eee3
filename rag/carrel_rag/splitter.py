"""Cuts a document into chunks of at most so many tokens, at the ends of sentences wherever it can.

::

    spans     | heading | paragraph ............................ | row | row | code ... |
    units               | sentence | sentence | piece | piece     | row | row | code     |   never over the budget
    chunks              [ sentence   sentence ]
                                   [ sentence   piece ]                    overlap: the last units once more
                                                               [ row   row ]

Chunks never reach over a page or a section, so that a citation names one place. Headings are not repeated in chunks:
each chunk carries the path of headings above it; a heading with nothing under it is a chunk of its own.
Knows the tokenizer through :class:`~carrel_rag.protocols.TokenCounter`; knows no database and no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from carrel_rag.loaders.extracted import Extracted, Span
from carrel_rag.protocols import TokenCounter
from carrel_rag.sentences import Range, split_sentences

SPLITTER_VERSION = "1"  # part of the fingerprint: chunks of another version are not mixed with these
_MAX_HEADING_CHARACTERS = 200
_CLAUSE = re.compile(  # ends at a mark, but not at one between digits, as in 4,812 and 10:30
    r"[^；;，,、：:]*(?:(?<=\d)[,:](?=\d)[^；;，,、：:]*)*(?:(?:[；;，、：]|(?<!\d)[,:]|[,:](?!\d))+|$)"
)
_LIST = re.compile(r"[^,:]*(?:[,:]+|$)")  # numbers in a row without blanks, 1,2,3,…: cut at any mark after all
_LINE = re.compile(r"[^\n]*(?:\n|$)")
_WORD = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, kw_only=True)
class SplitterConfig:
    """Sizes in tokens of the embedding model.

    >>> SplitterConfig(chunk_tokens=128).overlap_tokens
    32
    """

    chunk_tokens: int = 192
    overlap_tokens: int = 32

    def __post_init__(self) -> None:
        if self.chunk_tokens < 16:
            raise ValueError(f"chunk_tokens must be at least 16, got {self.chunk_tokens}.")
        if not 0 <= self.overlap_tokens <= self.chunk_tokens // 2:
            raise ValueError(f"overlap_tokens must be between 0 and half of chunk_tokens, got {self.overlap_tokens}.")


@dataclass(frozen=True, slots=True)
class TextChunk:
    """``text[start:end]`` of the document."""

    start: int
    end: int
    page: int | None
    section: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Unit:
    """The smallest thing that is not cut any more."""

    start: int
    end: int
    tokens: int
    page: int | None
    section: tuple[str, ...]

    @property
    def place(self) -> tuple[int | None, tuple[str, ...]]:
        return self.page, self.section


def split_document(document: Extracted, counter: TokenCounter, config: SplitterConfig) -> list[TextChunk]:
    """The chunks in the order of the text; every chunk has at most ``config.chunk_tokens`` tokens."""
    return _Splitter(document, counter, config).chunks()


class _Splitter:
    def __init__(self, document: Extracted, counter: TokenCounter, config: SplitterConfig) -> None:
        self._document = document
        self._text = document.text
        self._counter = counter
        self._config = config

    def chunks(self) -> list[TextChunk]:
        groups = _pack(list(self._units()), self._config)
        return [
            TextChunk(group[0].start, group[-1].end, group[0].page, group[0].section)
            for packed in groups
            for group in self._within_budget(packed)
        ]

    def _within_budget(self, units: list[_Unit]) -> Iterator[list[_Unit]]:
        """A joined text may have a few tokens more than its parts; then it is halved."""
        if len(units) == 1 or self._count([(units[0].start, units[-1].end)])[0] <= self._config.chunk_tokens:
            yield units
            return
        half = len(units) // 2
        yield from self._within_budget(units[:half])
        yield from self._within_budget(units[half:])

    def _units(self) -> Iterator[_Unit]:
        spans = self._document.spans
        for index, span in enumerate(spans):
            after = spans[index + 1] if index + 1 < len(spans) else None
            if span.kind != "heading" or _is_bare(span, after) or span.end - span.start > _MAX_HEADING_CHARACTERS:
                yield from self._units_of(span)

    def _units_of(self, span: Span) -> Iterator[_Unit]:
        ranges = self._pieces(span)
        for (start, end), tokens in zip(ranges, self._count(ranges), strict=True):
            if tokens <= self._config.chunk_tokens:
                yield _Unit(start, end, tokens, span.page, span.section)
            else:
                for first, last, count in self._cut(start, end, 0 if span.kind == "code" else 1):
                    yield _Unit(first, last, count, span.page, span.section)

    def _pieces(self, span: Span) -> list[Range]:
        if span.kind == "paragraph":
            wrapped = self._document.media_type == "text/plain"
            ranges = split_sentences(self._text[span.start : span.end], wrapped_lines=wrapped)
            return [(span.start + start, span.start + end) for start, end in ranges]
        return [(span.start, span.end)]

    def _count(self, ranges: Sequence[Range]) -> list[int]:
        return self._counter.count_tokens([self._text[start:end] for start, end in ranges]) if ranges else []

    def _cut(self, start: int, end: int, level: int) -> Iterator[tuple[int, int, int]]:
        """A unit over the budget: at lines, then at clauses, then at blanks, then between numbers, then anywhere."""
        cutters: tuple[Callable[[int, int], list[Range]], ...] = (
            self._lines,
            self._clauses,
            self._words,
            self._numbers,
            self._slices,
        )
        ranges = cutters[level](start, end)
        for (first, last), tokens in zip(ranges, self._count(ranges), strict=True):
            if tokens <= self._config.chunk_tokens:
                yield first, last, tokens
            else:
                yield from self._cut(first, last, min(level + 1, len(cutters) - 1))

    def _lines(self, start: int, end: int) -> list[Range]:
        return self._matches(_LINE, start, end)

    def _clauses(self, start: int, end: int) -> list[Range]:
        return self._matches(_CLAUSE, start, end)

    def _words(self, start: int, end: int) -> list[Range]:
        return self._matches(_WORD, start, end)

    def _numbers(self, start: int, end: int) -> list[Range]:
        return self._matches(_LIST, start, end)

    def _matches(self, pattern: re.Pattern[str], start: int, end: int) -> list[Range]:
        ranges = []
        for match in pattern.finditer(self._text, start, end):
            body = match.group().strip()
            if body:
                first = match.start() + len(match.group()) - len(match.group().lstrip())
                ranges.append((first, first + len(body)))
        return ranges

    def _slices(self, start: int, end: int) -> list[Range]:
        """Pieces of so many characters, or halves if the text is shorter than that already."""
        step = min(self._config.chunk_tokens, max(1, (end - start + 1) // 2))
        return [(first, min(first + step, end)) for first in range(start, end, step)]


def _is_bare(heading: Span, after: Span | None) -> bool:
    """Whether no text and no deeper heading follows, so that only a chunk of its own keeps the heading."""
    if after is None:
        return True
    return after.section[: len(heading.section)] != heading.section or (
        after.kind == "heading" and len(after.section) == len(heading.section)
    )


def _pack(units: Sequence[_Unit], config: SplitterConfig) -> list[list[_Unit]]:
    groups: list[list[_Unit]] = []
    current: list[_Unit] = []
    for unit in units:
        if current and unit.place != current[-1].place:
            groups.append(current)
            current = []
        elif current and _tokens(current) + unit.tokens > config.chunk_tokens:
            groups.append(current)
            current = _overlap(current, min(config.overlap_tokens, config.chunk_tokens - unit.tokens))
        current.append(unit)
    return [*groups, current] if current else groups


def _tokens(units: Sequence[_Unit]) -> int:
    return sum(unit.tokens for unit in units)


def _overlap(units: list[_Unit], budget: int) -> list[_Unit]:
    """The last units within ``budget`` tokens, never all of them."""
    first = len(units)
    while first > 1 and _tokens(units[first - 1 :]) <= budget:
        first -= 1
    return units[first:]
