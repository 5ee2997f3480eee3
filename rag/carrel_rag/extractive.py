"""Answers without a chat model: the sentences of the retrieved passages that answer best, verbatim. See also spans.

Each sentence is scored by the reranker together with its innermost heading, and by the question's terms that it holds
(those in its heading or beside it count less). The best one answers, with up to two more that are nearly as good.
Below a threshold there is no answer. A cross-encoder's score is a probability (``min_relevance``); a MiniLM cosine of
an unrelated English sentence is about 0.1 and of a related one above 0.4, and coverage is the share of the question's
telling words (``min_score``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from carrel_rag.citations import make_citation
from carrel_rag.protocols import Reranker
from carrel_rag.quotes import quotable, shown
from carrel_rag.relevance import Question
from carrel_rag.schema import Citation, RetrievedChunk

_ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|long|often|old|far|high)|when|what (?:year|time|number))\b"
    "|多少|几|多久|何时|什么时候|电话|号码",
    re.I,
)
_DIGIT = re.compile(r"[\d一二三四五六七八九十百千两]")
_WORD = re.compile(r"\w")


@dataclass(frozen=True, kw_only=True)
class ExtractiveConfig:
    """How an extractive answer is put together.

    ``span`` answers with a few words and quotes the sentence around them; it needs a reranker that finds spans, and
    with any other one the answer is sentences. The first group is about spans, the second about sentences.
    """

    answer: Literal["span", "sentence"] = "span"
    min_relevance: float = 0.09  # of what a cross-encoder likes best; below, no answer (training/calibrate.py)
    span_weight: float = 0.2  # how much the span's score says beside the window's relevance, both as logits
    window_words: int = 110  # what is read at once: so many words, or Chinese characters
    window_characters: int = 220
    max_windows: int = 16  # of all passages together

    max_sentences: int = 3
    min_score: float = 0.33  # of the best sentence where a bi-encoder judges; below, there is no answer
    min_more_score: float = 0.5  # of a second and third sentence
    relative_score: float = 0.9  # which also reach this share of the best one's score
    relative_passage: float = 0.4  # passages under this share of the best one's score are not searched
    number_bonus: float = 0.06  # for a sentence with a number when the question asks for one
    passage_weight: float = 0.15  # how much the passage's own score says about its sentences

    def __post_init__(self) -> None:
        if self.answer not in ("span", "sentence"):
            raise ValueError(f"answer must be 'span' or 'sentence', got {self.answer!r}.")
        for name in ("window_words", "window_characters", "max_windows", "max_sentences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class _Candidate:
    number: int  # of the passage, from 1
    chunk: RetrievedChunk
    start: int  # in the chunk's text
    end: int
    before: str  # its neighbours
    after: str

    @property
    def text(self) -> str:
        return self.chunk.text[self.start : self.end]

    @property
    def place(self) -> tuple[str, int, int]:
        return self.chunk.document_id, self.chunk.start + self.start, self.chunk.start + self.end


def extract_answer(
    question: Question, chunks: Sequence[RetrievedChunk], reranker: Reranker, config: ExtractiveConfig
) -> tuple[str, tuple[Citation, ...]]:
    """The text with ``[n]`` after each sentence, and the citations; ``("", ())`` when nothing is good enough."""
    candidates = list(_candidates(chunks, config.relative_passage))
    if not candidates:
        return "", ()
    scores = _scores(question, candidates, reranker, config)
    ranks = [score + _number_bonus(question, c, config) for c, score in zip(candidates, scores, strict=True)]
    order = sorted(range(len(candidates)), key=lambda i: -ranks[i])
    if scores[order[0]] < (config.min_score if reranker.kind == "bi-encoder" else config.min_relevance):
        return "", ()
    least = max(config.min_more_score, config.relative_score * ranks[order[0]])
    good = [order[0], *(i for i in order[1 : config.max_sentences] if ranks[i] >= least)]
    return _compose([candidates[i] for i in good], [scores[i] for i in good])


def _number_bonus(question: Question, candidate: _Candidate, config: ExtractiveConfig) -> float:
    """Helps to choose among sentences; says nothing about whether there is an answer."""
    asked = _ASKS_NUMBER.search(question.text) and _DIGIT.search(candidate.text)
    return config.number_bonus if asked else 0.0


def _candidates(chunks: Sequence[RetrievedChunk], relative_passage: float) -> Iterator[_Candidate]:
    """Every sentence once, though overlapping chunks hold it twice. Questions are left out: they are not answers."""
    seen: set[tuple[str, int, int]] = set()
    least = relative_passage * max((chunk.score for chunk in chunks), default=0.0)
    near = [(number, chunk) for number, chunk in enumerate(chunks, start=1) if chunk.score >= least]
    for number, chunk in near:
        ranges = quotable(chunk)
        texts = ["", *(chunk.text[start:end] for start, end in ranges), ""]
        for i, (start, end) in enumerate(ranges):
            candidate = _Candidate(number, chunk, start, end, texts[i], texts[i + 2])
            if candidate.place not in seen and _WORD.search(candidate.text) and candidate.text[-1] not in "?？":
                seen.add(candidate.place)
                yield candidate


def _scores(
    question: Question, candidates: Sequence[_Candidate], reranker: Reranker, config: ExtractiveConfig
) -> list[float]:
    texts = [_with_heading(candidate) for candidate in candidates]
    share = config.passage_weight
    scores = []
    for candidate, score in zip(candidates, reranker.score(question.text, texts), strict=True):
        blended = question.blend(reranker.kind, score, _coverage(question, candidate))
        scores.append((1 - share) * blended + share * candidate.chunk.score)
    return scores


def _with_heading(candidate: _Candidate) -> str:
    """A sentence under ``Watering`` rarely says watering again; one after a question answers it."""
    lead = candidate.before if candidate.before.endswith(("?", "？")) else ""
    heading = candidate.chunk.section[-1] if candidate.chunk.section else ""
    return ": ".join(part for part in (heading, " ".join(part for part in (lead, candidate.text) if part)) if part)


def _coverage(question: Question, candidate: _Candidate) -> float:
    asked = 1.0 if candidate.before.endswith(("?", "？")) else 0.4
    heading = f"{candidate.chunk.title} {candidate.chunk.heading}"
    return question.coverage(candidate.text, heading, candidate.before, candidate.after, weights=(1.0, 0.6, asked, 0.3))


def _compose(chosen: Sequence[_Candidate], scores: Sequence[float]) -> tuple[str, tuple[Citation, ...]]:
    """The passage of the best sentence first; within a passage in the order of the text."""
    passages = list(dict.fromkeys(candidate.number for candidate in chosen))
    order = sorted(range(len(chosen)), key=lambda i: (passages.index(chosen[i].number), chosen[i].start))
    citations = [
        make_citation(c.number, c.chunk, c.start, c.end, score=score)
        for c, score in ((chosen[i], scores[i]) for i in order)
    ]
    texts = [shown(candidate.chunk, candidate.start, candidate.end) for candidate in (chosen[i] for i in order)]
    return " ".join(f"{text} [{c.number}]" for text, c in zip(texts, citations, strict=True)), tuple(citations)
