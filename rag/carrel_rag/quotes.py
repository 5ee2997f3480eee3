"""What of a passage can be quoted as one: a sentence, a list's item, a table's row, a block of code. Knows no question.

Ranges count in characters of the chunk's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from carrel_rag.citations import MARK
from carrel_rag.schema import RetrievedChunk
from carrel_rag.sentences import Range, split_sentences
from carrel_rag.text import unwrapped

MARKED_UP = frozenset({"text/markdown", "text/html"})
_BLOCK = re.compile(r"\S(?:[^\n]|\n(?!\n))*(?<!\n)")  # up to a blank line
_BULLET = re.compile(r"[-•◦▪●○‣]\s+(?=\S)")
_ITEM_OR_ROW = re.compile(r"\s*(?:[-•]|\d+\.)\s|.*(?:: .*; | \| )|[^:]+: ")
_CELL = r"[^:;|\n]{1,60}: [^;\n]*"
_VALUE = re.compile(r"(?:^|; | \| )[ \t]*(?:[^:;|\n]{1,60}: )?(?P<value>(?:(?!; | \| ).)*)")
_ROW = re.compile(
    rf"^[ \t]*(?![ \t])(?:{_CELL}(?:; {_CELL})+|[^|\n]+(?: \| [^|\n]+)+)$", re.M
)  # as loaders.tables writes it


def quotable(chunk: RetrievedChunk) -> list[Range]:
    """The sentences, but code and a row of a table as a whole; an item is without its bullet.

    In marked-up text a paragraph is one line, so many lines are code.
    """
    ranges = []
    for start, end in _with_bullets(chunk):
        bullet = _BULLET.match(chunk.text, start, end)
        ranges.append((bullet.end() if bullet else start, end))
    return ranges


def _with_bullets(chunk: RetrievedChunk) -> list[Range]:
    if chunk.media_type not in MARKED_UP:
        return _sentences(chunk.text, 0, len(chunk.text), wrapped_lines=chunk.media_type == "text/plain")
    ranges: list[Range] = []
    for block in _BLOCK.finditer(chunk.text):
        lines = block.group().split("\n")
        if len(lines) > 1 and not all(_ITEM_OR_ROW.match(line) for line in lines):
            ranges.append(block.span())
        else:
            ranges.extend(_sentences(chunk.text, *block.span(), wrapped_lines=False))
    return ranges


def _sentences(text: str, start: int, end: int, *, wrapped_lines: bool) -> list[Range]:
    ranges: list[Range] = []
    at = start
    for row in () if wrapped_lines else _ROW.finditer(text, start, end):  # wrapped is only text without tables
        ranges += _between(text, at, row.start(), wrapped_lines)
        ranges.append(row.span())
        at = row.end()
    return ranges + _between(text, at, end, wrapped_lines)


def _between(text: str, start: int, end: int, wrapped_lines: bool) -> list[Range]:
    found = split_sentences(text[start:end], wrapped_lines=wrapped_lines)
    return [(start + first, start + last) for first, last in found]


def quote_around(ranges: Sequence[Range], start: int, end: int) -> Range:
    """The sentence that holds ``start:end``, or the sentences if it lies across several.

    >>> quote_around([(0, 10), (11, 20), (21, 30)], 9, 12)
    (0, 20)
    """
    touched = [(first, last) for first, last in ranges if first < end and last > start]
    if not touched:
        return start, end
    return min(start, touched[0][0]), max(end, touched[-1][1])


def shown(chunk: RetrievedChunk, start: int, end: int) -> str:
    """``chunk.text[start:end]`` as an answer says it: in one line, but code in its lines.

    The document's own marks like ``[2]`` have gone: they would look like citations.
    """
    text = chunk.text[start:end]
    if chunk.media_type in MARKED_UP and "\n" in text:
        return text
    return unwrapped(MARK.sub("", text))


def is_row(text: str) -> bool:
    """Whether a text of :func:`quotable` is a row of a table."""
    return _ROW.fullmatch(text) is not None


def is_question(text: str) -> bool:
    """Whether a text of :func:`quotable` asks, and so does not answer."""
    return text.endswith(("?", "？"))


def cell_around(text: str, start: int, end: int) -> Range:
    """What of ``start:end`` lies in the value of the cell where it begins, if ``text`` is a row.

    >>> row = "Card: Jade; Rate: 1.5; Gift: 100"
    >>> row[slice(*cell_around(row, 12, 26))]
    '1.5'
    """
    if not is_row(text):
        return start, end
    cells = [match.span("value") for match in _VALUE.finditer(text)]
    for first, last in cells:
        if start < last and end > first:
            return max(start, first), min(end, last)
    return start, end


def paragraphs(chunk: RetrievedChunk, ranges: Sequence[Range]) -> Iterator[list[Range]]:
    """The ranges of :func:`quotable` in groups: those that stand in one line, with no line break between them."""
    group: list[Range] = []
    for first, last in ranges:
        if group and "\n" in chunk.text[group[-1][1] : first]:
            yield group
            group = []
        group.append((first, last))
    if group:
        yield group
