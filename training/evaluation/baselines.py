"""Answers that no model was trained for: what a reader must beat. Knows words and sentences only.

The span of most overlap is Richardson, Burges and Renshaw's idea (MCTest, 2013): the answer stands near the question's
words, and does not repeat them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from carrel_rag.lexical import index_terms, query_terms
from carrel_rag.quotes import quotable
from carrel_rag.relevance import Question
from carrel_rag.schema import RetrievedChunk
from carrel_rag.sentences import Range
from carrel_rag.text import CJK_LETTER

_TOKEN = re.compile(f"[{CJK_LETTER}]|[^\\W_{CJK_LETTER}]+(?:[.,'’-][^\\W_{CJK_LETTER}]+)*|[^\\s\\w]")
_WORD = re.compile(r"\w")
_CHINESE = re.compile(f"[{CJK_LETTER}]")
_LONGEST = 12  # words, or Chinese characters, of a span


def first_sentence(chunk: RetrievedChunk) -> str:
    """What a search engine shows under the first hit."""
    sentences = quotable(chunk)
    return chunk.text[slice(*sentences[0])] if sentences else chunk.text


def best_sentence(question: Question, chunks: Sequence[RetrievedChunk]) -> tuple[str, int]:
    """The sentence that holds most of the question's words by their weight, and the number of its passage."""
    found = [(chunk.text[start:end], n) for n, chunk in enumerate(chunks, 1) for start, end in quotable(chunk)]
    assert found, "a chunk has text"
    return max(found, key=lambda each: question.coverage(each[0]))


def best_span(question: Question, chunks: Sequence[RetrievedChunk]) -> tuple[str, int]:
    """Of that sentence the run of new words that stands nearest to the question's words."""
    sentence, number = best_sentence(question, chunks)
    tokens = [match.span() for match in _TOKEN.finditer(sentence)]
    known = [_weight(question, sentence, tokens, i) for i in range(len(tokens))]
    spans = list(_new_runs(sentence, tokens, known))
    if not spans:
        return sentence, number
    first, last = max(spans, key=lambda span: _nearness(known, *span))
    return sentence[tokens[first][0] : tokens[last - 1][1]], number


def _weight(question: Question, sentence: str, tokens: Sequence[Range], i: int) -> float:
    """What the question gives for this token; Chinese terms are pairs, so a character counts with either neighbour."""
    start, end = tokens[i]
    before, after = tokens[max(i - 1, 0)][0], tokens[min(i + 1, len(tokens) - 1)][1]
    pairs = (sentence[before:end], sentence[start:after]) if _CHINESE.match(sentence, start) else ()
    terms = {term for text in (sentence[start:end], *pairs) for term in index_terms(text) if len(term) > 1 or not pairs}
    return max((question.weights.get(term, 0.0) for term in terms), default=0.0)


def _new_runs(sentence: str, tokens: Sequence[Range], known: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Runs of words that the question does not have, cut at punctuation, without small words at their ends."""
    telling = set(query_terms(sentence))
    words = [sentence[start:end] for start, end in tokens]
    new = [not weight and _WORD.search(word) is not None for weight, word in zip(known, words, strict=True)]
    small = [_CHINESE.match(word) is None and telling.isdisjoint(index_terms(word)) for word in words]
    for is_new, run in groupby(range(len(tokens)), key=lambda i: new[i]):
        kept = list(run)[:_LONGEST] if is_new else []
        while kept and small[kept[0]]:
            kept.pop(0)
        while kept and small[kept[-1]]:
            kept.pop()
        if kept:
            yield kept[0], kept[-1] + 1


def _nearness(known: Sequence[float], first: int, last: int) -> float:
    """The weights of the question's words around, less by their distance."""
    return sum(
        weight / (first - i if i < first else i - last + 1)
        for i, weight in enumerate(known)
        if weight and not first <= i < last
    )
