"""What a reranker reads at once: some sentences of a passage, or one row of a table. Knows no question.

::

    passage   sentence sentence sentence sentence   row   row
    windows   [----- read at once ----]
                                [---------------]             the last sentence once more, if it is short
                                                    [-]   [-]

The starter reranker learned from windows of whole sentences. Rows stand alone, for they are alike: read together, the
one that fits is hard to tell from its neighbours. So does a question with its answer, as in a list of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from carrel_rag.quotes import is_question, is_row, quotable
from carrel_rag.schema import RetrievedChunk
from carrel_rag.sentences import Range
from carrel_rag.text import is_cjk
from carrel_rag.words import WORD, whole_words

_SHORT = 0.35  # of a window: a sentence that is read twice


@dataclass(frozen=True)
class Window:
    """``chunk.text[start:end]``."""

    number: int  # of the passage, from 1
    chunk: RetrievedChunk
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.chunk.text[self.start : self.end]

    @property
    def lead(self) -> str:
        """What is read before it: the title and headings of the passage."""
        return f"{self.chunk.context}\n" if self.chunk.context else ""


@dataclass(frozen=True)
class WindowSize:
    """How much fits: so many words, or so many Chinese characters, or of both in proportion."""

    words: int
    characters: int

    def share(self, text: str) -> float:
        """Of a window that a text takes."""
        chinese = sum(map(is_cjk, text))
        words = sum(word.group()[0].isalnum() and not is_cjk(word.group()[0]) for word in WORD.finditer(text))
        return chinese / self.characters + words / self.words


def cut_windows(number: int, chunk: RetrievedChunk, size: WindowSize) -> Iterator[Window]:
    """All of the chunk in windows; those without a letter or digit are left out."""
    text = chunk.text
    parts = [part for place in quotable(chunk) for part in _parts(text, place, size)]
    for alone, run in groupby(parts, key=lambda part: is_row(text[part[0] : part[1]])):
        for ranges in [list(run)] if alone else _by_questions(text, list(run)):
            for start, end in ranges if alone else _packed(ranges, [size.share(text[a:b]) for a, b in ranges]):
                if any(map(str.isalnum, text[start:end])):
                    yield Window(number, chunk, start, end)


def _by_questions(text: str, ranges: Sequence[Range]) -> Iterator[list[Range]]:
    """The sentences, parted where a line begins with a question."""
    run: list[Range] = []
    for start, end in ranges:
        if run and is_question(text[start:end]) and "\n" in text[run[-1][1] : start]:
            yield run
            run = []
        run.append((start, end))
    yield run


def _packed(ranges: Sequence[Range], shares: Sequence[float]) -> Iterator[Range]:
    """As many as fit, side by side; what takes more than one window is cut into windows of about the same size."""
    enough = sum(shares) / max(1, math.ceil(sum(shares)))
    first, filled = 0, 0.0
    for i, share in enumerate(shares):
        if i > first and (filled + share > 1 or filled >= enough):
            yield ranges[first][0], ranges[i - 1][1]
            again = i - 1 > first and shares[i - 1] <= _SHORT and shares[i - 1] + share <= 1
            first, filled = (i - 1, shares[i - 1]) if again else (i, 0.0)
        filled += share
    yield ranges[first][0], ranges[-1][1]


def _parts(text: str, place: Range, size: WindowSize) -> Iterator[Range]:
    """The sentence, or pieces of one that is longer than a window; they begin with whole words."""
    start, end = place
    step = -(-(end - start) // max(1, math.ceil(size.share(text[start:end]))))
    while end - start > step:
        _, cut = whole_words(text, start, start + step)
        yield start, min(cut, end)
        start = min(cut, end)
    if start < end:
        yield start, end
