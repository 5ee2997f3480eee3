"""Citations in a model's text: found, checked against the passages, and tied to the sentence they quote. Asks no model.

Accepted are ``[1]``, ``[1, 2]``, ``[1][2]``, ``[1-3]`` and the full-width ``【1】`` and ``［1］``; written is ``[1]``.
A number without a passage is taken out of the text. A model that cites nothing is helped: each of its sentences gets
the passage that holds most of its words, if one holds enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from carrel_rag.lexical import index_terms
from carrel_rag.schema import Citation, RetrievedChunk
from carrel_rag.sentences import split_sentences

_NUMBERS = r"\s*\^?\d{1,3}(?:\s*[-–~,，、;；]\s*\d{1,3})*\s*"
# Blanks before a mark are tried from the first one only: tried from each, a long run of them costs its square.
_BLANKS = r"(?:(?<![ \t])[ \t]+)?"  # optional, so that a mark is found, too, where a search begins amid blanks
MARK = re.compile(rf"{_BLANKS}(?:\[({_NUMBERS})\]|【({_NUMBERS})】|［({_NUMBERS})］)")
_OPEN = re.compile(rf"{_BLANKS}[\[【［][\s\d,，、;；\-–~^]*$|(?<![ \t])[ \t]+$")  # what may still become a mark
_MAX_HELD = 40  # characters held back at most
_ENOUGH = 0.6  # share of a sentence's terms that a passage must hold to be cited for it


def parse_numbers(mark: str) -> list[int]:
    """``"1, 3-5"`` to ``[1, 3, 4, 5]``."""
    numbers: list[int] = []
    for part in re.split(r"[,，、;；]", mark.replace("^", "")):
        ends = [int(n) for n in re.findall(r"\d+", part)]
        if len(ends) == 2 and ends[0] <= ends[1] <= ends[0] + 20:
            numbers.extend(range(ends[0], ends[1] + 1))
        else:
            numbers.extend(ends)
    return numbers


def normalise(text: str, num_passages: int) -> str:
    """``text`` with every citation as ``[n]`` and the invalid ones gone.

    >>> normalise("积分按1.5倍累积【1】, see [2, 9].", 2)
    '积分按1.5倍累积[1], see [2].'
    """
    return MARK.sub(lambda match: _rewrite(match, num_passages), text)


def _rewrite(match: re.Match[str], num_passages: int) -> str:
    numbers = parse_numbers(next(group for group in match.groups() if group is not None))
    valid = [n for n in dict.fromkeys(numbers) if 1 <= n <= num_passages]
    if not valid:
        return ""
    blank = " " if match.group()[0] in " \t" else ""
    return blank + "".join(f"[{n}]" for n in valid)


class CitationFilter:
    """:func:`normalise` for text that comes in pieces: a mark is held back until it is whole.

    >>> marks = CitationFilter(num_passages=1)
    >>> [marks.feed("4,812 [", final=False), marks.feed("1] lanterns [7]", final=True)]
    ['4,812', ' [1] lanterns']
    """

    def __init__(self, num_passages: int) -> None:
        self._num_passages = num_passages
        self._held = ""

    def feed(self, text: str, *, final: bool) -> str:
        """What of the text so far can be shown."""
        whole = self._held + text
        match = None if final else _OPEN.search(whole)
        cut = match.start() if match and len(whole) - match.start() <= _MAX_HELD else len(whole)
        self._held = whole[cut:]
        return normalise(whole[:cut], self._num_passages)


def find_citations(text: str, chunks: Sequence[RetrievedChunk]) -> tuple[Citation, ...]:
    """The citations of a normalised ``text``, each number once, with the sentence of the passage that fits best."""
    citations: dict[int, Citation] = {}
    for start, end in split_sentences(text):
        sentence = text[start:end]
        # A mark after the full stop is split off with the next sentence: look at what stands before it, too.
        for match in MARK.finditer(sentence):
            claim = sentence[: match.start()].strip() or _sentence_before(text, start)
            for number in parse_numbers(match.group(1) or ""):
                if 1 <= number <= len(chunks) and number not in citations:
                    citations[number] = cite(number, chunks[number - 1], claim)
    return tuple(citations.values())


def _sentence_before(text: str, position: int) -> str:
    before = split_sentences(text[:position])
    return text[before[-1][0] : before[-1][1]] if before else ""


def attribute(text: str, chunks: Sequence[RetrievedChunk]) -> tuple[Citation, ...]:
    """Citations for a text that has none: each sentence goes to the passage that holds most of its terms."""
    citations: dict[int, Citation] = {}
    for start, end in split_sentences(text):
        terms = set(index_terms(text[start:end]))
        shares = [_share(terms, index_terms(chunk.text)) for chunk in chunks]
        if shares and max(shares) >= _ENOUGH:
            number = shares.index(max(shares)) + 1
            citations.setdefault(number, cite(number, chunks[number - 1], text[start:end]))
    return tuple(citations[number] for number in sorted(citations))


def cite(number: int, chunk: RetrievedChunk, claim: str) -> Citation:
    """A citation of the sentence of ``chunk`` that shares most terms with ``claim``."""
    terms = set(index_terms(claim))
    ranges = split_sentences(chunk.text, wrapped_lines=chunk.media_type == "text/plain") or [(0, len(chunk.text))]
    start, end = max(ranges, key=lambda r: _share(terms, index_terms(chunk.text[r[0] : r[1]])))
    return make_citation(number, chunk, start, end)


def make_citation(number: int, chunk: RetrievedChunk, start: int, end: int, *, score: float | None = None) -> Citation:
    """A citation of ``chunk.text[start:end]``, its offsets counted in the document; ``score``: None is the chunk's."""
    return Citation(
        number=number,
        document_id=chunk.document_id,
        source=chunk.source,
        title=chunk.title,
        page=chunk.page,
        heading=chunk.heading,
        quote=chunk.text[start:end],
        start=chunk.start + start,
        end=chunk.start + end,
        chunk_id=chunk.id,
        score=chunk.score if score is None else score,
    )


def _share(terms: set[str], others: Iterable[str]) -> float:
    return len(terms & set(others)) / len(terms) if terms else 0.0
