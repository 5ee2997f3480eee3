"""What each way to answer says to the same items, and what that is worth.

Readers and the extractive mode are asked through the pipeline's own answerer, so that the numbers are those of its
users. Knows no search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from carrel_rag.answerer import Answerer, AnswerMode, Writing
from carrel_rag.pieces import QUOTE_TOKENS
from carrel_rag.schema import AnswerEvent

from training.evaluation import baselines
from training.evaluation.five import Item
from training.evaluation.metrics import RIGHT, Mean, exact, f1, mean_of, strip_marks


@dataclass(frozen=True)
class Said:
    """An answer without its marks, and the numbers of the passages that it cites."""

    text: str
    cited: tuple[int, ...]
    abstained: bool
    seconds: float
    score: float | None = None  # of the best citation


Way = Callable[[Item], Said]


def by_pipeline(answerer: Answerer, mode: AnswerMode, *, constrain: bool = False) -> Way:
    """The pipeline's answer to the five passages; a chat model writes no more than its quotes may have."""
    writing = Writing(max_tokens=QUOTE_TOKENS, temperature=0.0, constrain=constrain)

    def ask(item: Item) -> Said:
        started = time.perf_counter()
        events = answerer.stream(item.retrieval, mode, writing, started=started)
        (answer,) = (event.answer for event in events if isinstance(event, AnswerEvent))
        cited = tuple(dict.fromkeys(citation.number for citation in answer.citations))
        score = max((citation.score for citation in answer.citations), default=None)
        text = "" if answer.abstained else strip_marks(answer.text)
        return Said(text, cited, answer.abstained, time.perf_counter() - started, score)

    return ask


def first_sentence(item: Item) -> Said:
    """Of the passage that the searches rank first."""
    started = time.perf_counter()
    text = baselines.first_sentence(item.retrieval.chunks[item.first - 1])
    return Said(text, (item.first,), False, time.perf_counter() - started)


def by_overlap(choose: Callable[..., tuple[str, int]]) -> Way:
    """``choose``: a function of the question and the chunks, from ``baselines``."""

    def ask(item: Item) -> Said:
        started = time.perf_counter()
        text, number = choose(item.retrieval.question, item.retrieval.chunks)
        return Said(text, (number,), False, time.perf_counter() - started)

    return ask


@dataclass(frozen=True)
class Worth:
    """One way in one language. ``cited``: of the right answers, those that cite the gold passage and no other."""

    f1: Mean
    exact: Mean
    abstains_unanswerable: Mean
    abstains_answerable: Mean
    cited: Mean
    seconds: Mean


def worth(items: Sequence[Item], said: Sequence[Said], *, seed: int = 0) -> Worth:
    """An abstention is worth nothing where there is an answer, and all there is to hope for where there is none."""
    pairs = [(item, answer) for item, answer in zip(items, said, strict=True) if item.gold is not None]
    scores = [f1(answer.text, item.question.answers, item.question.lang) for item, answer in pairs]
    right = [pair for pair, score in zip(pairs, scores, strict=True) if score >= RIGHT]
    without = [answer for item, answer in zip(items, said, strict=True) if item.gold is None]
    return Worth(
        f1=mean_of(scores, seed),
        exact=mean_of([exact(answer.text, item.question.answers, item.question.lang) for item, answer in pairs], seed),
        abstains_unanswerable=mean_of([float(answer.abstained) for answer in without], seed),
        abstains_answerable=mean_of([float(answer.abstained) for _, answer in pairs], seed),
        cited=mean_of([float(answer.cited == (item.gold,)) for item, answer in right], seed),
        seconds=mean_of([answer.seconds for answer in said], seed),
    )
