"""An answer that can only quote: a piece of a passage with its number, or the sentence that says there is none.

The form is one terminal of a grammar, so that the number is that of the passage which the piece stands in::

    ANSWER: " "? (((PASSAGE_1_1 | PASSAGE_1_2) & PIECE) " [1]" | (PASSAGE_2_1 & PIECE) " [2]" | "The documents …")

Where somebody else has found answers already, it is one of these: ``choosing_grammar``.

A piece begins and ends at word boundaries (anywhere in Chinese), stays within a paragraph and has a bounded length.
Blanks and line breaks count as one blank. Knows no model; that a chat model holds to it is the engine's work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from carrel_rag.citations import MARK, make_citation
from carrel_rag.prompts import abstention
from carrel_rag.quotes import paragraphs, quotable, quote_around
from carrel_rag.relevance import Question
from carrel_rag.schema import Citation, RetrievedChunk
from carrel_rag.sentences import Range
from carrel_rag.text import is_chinese
from carrel_rag.words import CLOSING, OPENING, PAUSES, WORD, whole_words

QUOTE_TOKENS = 128  # of a reader that may only quote: the longest piece, written with short tokens
_MAX_CHARACTERS, _MAX_CHARACTERS_CHINESE = 240, 80  # of a piece: about 48 tokens
# Of all pieces: the compiler walks them with every token of the model, and gives up at 13 KiB and 150,000 tokens.
_MAX_BYTES = 8 << 10
_ANSWER = re.compile(r"(?P<piece>.+) \[(?P<number>\d+)\]\s*", re.S)


def choosing_grammar(answers: Sequence[str]) -> str:
    """The grammar, as Lark, of one of ``answers``.

    >>> choosing_grammar(["1868 [1]", "Sholes [1]"])
    'start: ANSWER\\nANSWER: " "? ("1868 [1]" | "Sholes [1]")\\n'
    """
    return _grammar(list(map(_quoted, dict.fromkeys(answers))), [])


def quoting_grammar(question: str, chunks: Sequence[RetrievedChunk]) -> tuple[str, int]:
    """The grammar, as Lark, of an answer from ``chunks``, and how many of them it holds: the first ones that fit.

    Of a chunk that does not fit as a whole its beginning can be quoted.

    >>> quoting_grammar("Why?", [])[0]
    'start: ANSWER\\nANSWER: " "? ("The documents do not answer this question.")\\n'
    """
    rules: list[str] = []
    forms = [_quoted(abstention(question))]
    room, num_chunks = _MAX_BYTES, 0
    for number, chunk in enumerate(chunks, start=1):
        if room < 0:
            break
        num_chunks = number
        texts, room = _texts(chunk, room)
        names = [f"PASSAGE_{number}_{i}" for i in range(len(texts))]
        rules += [f'{name}: %regex {{"substring_chunks": {text}}}' for name, text in zip(names, texts, strict=True)]
        piece = "CHINESE_PIECE" if is_chinese(chunk.text) else "PIECE"
        forms += [f'(({" | ".join(names)}) & {piece}) " [{number}]"'] if names else []
    if rules:
        rules += [f"PIECE: {_piece(_MAX_CHARACTERS)}", f"CHINESE_PIECE: {_piece(_MAX_CHARACTERS_CHINESE)}"]
    return _grammar(forms, rules), num_chunks


def _grammar(forms: Sequence[str], rules: Sequence[str]) -> str:
    """One of ``forms``; a reader's first token may begin with a blank."""
    return "\n".join(["start: ANSWER", f'ANSWER: " "? ({" | ".join(forms)})', *rules, ""])


def _piece(length: int) -> str:
    """A regular expression: from a letter or digit, that a bracket or a sign may stand before, to what is no pause."""
    never_first, never_last = _characters(CLOSING), _characters(OPENING + PAUSES)
    return rf"/[^\s\w{never_first}]{{0,2}}(\.\d|\w)((?s:.{{0,{length}}})[^\s{never_last}])?/"


def _characters(some: str) -> str:
    return "".join(f"\\{char}" if char.isascii() else char for char in some)


def _quoted(value: str | list[str]) -> str:
    """As JSON, which is how Lark writes texts, too."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\\u007f")


def _texts(chunk: RetrievedChunk, room: int) -> tuple[list[str], int]:
    """The words of each paragraph as JSON, no more than ``room`` bytes of them, and the room that is left."""
    texts: list[str] = []
    for words in _paragraph_words(chunk):
        kept: list[str] = []
        for word in words:
            room -= len(word.encode())
            if room < 0:
                break
            kept.append(word)
        texts += [_quoted(kept)] if kept else []
    return texts, room


def _paragraph_words(chunk: RetrievedChunk) -> Iterator[Iterator[str]]:
    for start, end in _places(chunk):
        text = chunk.text[start:end]
        if any(char.isalnum() for char in text):
            yield (" " if word.isspace() else word for word in WORD.findall(text))


def _places(chunk: RetrievedChunk) -> Iterator[Range]:
    """What pieces are taken from: paragraphs, but not over marks like ``[12]``, which would look like citations."""
    for group in paragraphs(chunk, quotable(chunk)):
        start, end = group[0][0], group[-1][1]
        for mark in MARK.finditer(chunk.text, start, end):
            yield start, mark.start()
            start = mark.end()
        yield start, end


def cite_piece(text: str, question: Question, chunks: Sequence[RetrievedChunk]) -> tuple[Citation, ...]:
    """The citation of an answer that was held to :func:`quoting_grammar`: the sentence that the piece stands in.

    Empty if the text is no such answer: the sentence of abstention, or one that was cut off.
    """
    match = _ANSWER.fullmatch(text.strip())
    if match is None or not 1 <= int(match["number"]) <= len(chunks):
        return ()
    number = int(match["number"])
    chunk = chunks[number - 1]
    words = re.compile(r"\s+".join(map(re.escape, match["piece"].split())))
    ranges = quotable(chunk)
    quotes = [
        quote_around(ranges, *found.span())
        for start, end in _places(chunk)
        for found in words.finditer(chunk.text, start, end)
        if whole_words(chunk.text, *found.span()) == found.span()
    ]
    if not quotes:
        return ()
    # Where the piece stands several times, the sentence that speaks of the question is meant.
    start, end = max(quotes, key=lambda place: question.coverage(chunk.text[place[0] : place[1]]))
    return (make_citation(number, chunk, start, end),)
