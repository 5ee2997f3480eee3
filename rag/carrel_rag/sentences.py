"""Where sentences end, in Latin and Chinese text. Works on characters alone; knows no language model."""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLOSERS = r"[\"'”’」』）》】)\]]*"
# Runs of blanks and of marks are tried from their first character only: tried from each, they cost their square.
_END = re.compile(
    rf"[。！？…]+{_CLOSERS}|(?<![.!?])[.!?]+{_CLOSERS}(?=\s|$)|(?<![!?])[!?]+{_CLOSERS}(?=[\u2e80-\uffef])"
    r"|(?P<line>(?<![ \t])[ \t]*(?:\r\n|\r|\n)\s*)"
)
_ABBREVIATION = re.compile(
    r"(?<![A-Za-z])(?:mr|mrs|ms|dr|prof|st|mt|no|nos|fig|figs|eq|sec|ch|vol|pp?|ed|eds|al|etc|vs|cf|ca|approx|inc|ltd|co|corp"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|e\.g|i\.e|u\.s|u\.k|a\.m|p\.m|[a-z])\.$",
    re.I,
)
_LIST_START = re.compile(r"\s*(?:[-*•◦▪●·–—]\s|\(?\d{1,3}[.)、]|[#|>])")
_WRAPPED_WIDTH = 50  # a line at least this wide that ends without a full stop was wrapped, not ended

Range = tuple[int, int]


def split_sentences(text: str, *, wrapped_lines: bool = False) -> list[Range]:
    """``(start, end)`` of each sentence, in order, outer blanks left out; together they hold all but blanks.

    A line end ends a sentence, unless ``wrapped_lines`` says that the text may be wrapped and the line looks so.

    >>> text = "银卡满800元。Dr. Lin approves it! 金卡满3000元。"
    >>> [text[start:end] for start, end in split_sentences(text)]
    ['银卡满800元。', 'Dr. Lin approves it!', '金卡满3000元。']
    """
    return list(_ranges(text, wrapped_lines))


def _ranges(text: str, wrapped_lines: bool) -> Iterator[Range]:
    start = 0
    for match in _END.finditer(text):
        if _ends_here(text, start, match, wrapped_lines):
            yield from _stripped(text, start, match.end())
            start = match.end()
    yield from _stripped(text, start, len(text))


def _ends_here(text: str, start: int, match: re.Match[str], wrapped_lines: bool) -> bool:
    if match.group("line") is not None:
        return not (wrapped_lines and _is_wrap(text, start, match))
    mark = match.group()
    if mark[0] != ".":
        return not _goes_on(text, match.end()) if mark[0] in "!?" else True
    if _goes_on(text, match.end()):
        return False
    return len(mark) > 1 or _ABBREVIATION.search(text, max(start, match.start() - 12), match.start() + 1) is None


def _goes_on(text: str, position: int) -> bool:
    """Whether the next word begins with a small letter, so that the mark before it ends no sentence."""
    rest = text[position : position + 8].lstrip(" \t")
    return rest[:1].islower()


def _is_wrap(text: str, start: int, match: re.Match[str]) -> bool:
    if match.group().count("\n") + match.group().count("\r") - match.group().count("\r\n") > 1:
        return False  # a blank line
    line_start = max(text.rfind("\n", 0, match.start()), text.rfind("\r", 0, match.start())) + 1
    line = text[line_start : match.start()]
    width = sum(2 if char > "\u2e7f" else 1 for char in line)
    ended = line.rstrip()[-1:] in tuple("。！？：；.!?:;")
    return width >= _WRAPPED_WIDTH and not ended and _LIST_START.match(text, match.end()) is None


def _stripped(text: str, start: int, end: int) -> Iterator[Range]:
    piece = text[start:end]
    body = piece.strip()
    if body:
        first = start + len(piece) - len(piece.lstrip())
        yield first, first + len(body)
