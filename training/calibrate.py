"""Fits the few numbers by which the pipeline mixes the starter reranker's judgement with other evidence.

It uses questions of the train files whose titles training left out, never the dev files. It prints for each number what
others would give, so that a person can choose one that is good in both languages; it writes nothing.

    python -m training.calibrate --qa FOLDER [--questions 120] [--reranker FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from carrel import LLM
from carrel_rag.engine_models import bind_engine
from carrel_rag.extractive import ExtractiveConfig
from carrel_rag.protocols import SpanFinder
from carrel_rag.relevance import log_odds
from carrel_rag.retriever import Retrieval, in_context
from carrel_rag.score_cache import cached
from carrel_rag.spans import evidence_of
from tqdm import tqdm

from training.evaluation.five import Item, make_item
from training.evaluation.library import Library
from training.evaluation.metrics import f1, reciprocal_rank
from training.evaluation.questions import LANGUAGES, Question, read_sample

WEIGHTS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
SPAN_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5)
FALSE_ABSTENTIONS = (0.05, 0.1, 0.15)


@dataclass(frozen=True)
class Candidate:
    """A chunk that was found, or a window with its span."""

    name: str  # of its passage
    odds: float
    coverage: float
    span: float = 0.0
    f1: float = 0.0


def ranked(question: Question, found: Retrieval, judge: SpanFinder) -> list[Candidate]:
    scores = judge.score(question.text, [in_context(chunk) for chunk in found.chunks])
    return [
        Candidate(
            chunk.source,
            log_odds(score),
            found.question.coverage(chunk.text, f"{chunk.title} {chunk.heading}", weights=(1.0, 0.7)),
        )
        for chunk, score in zip(found.chunks, scores, strict=True)
    ]


def windows_of(item: Item, judge: SpanFinder) -> list[Candidate]:
    lang, answers = item.question.lang, item.question.answers
    return [
        Candidate(
            each.window.chunk.source, log_odds(each.relevance), each.coverage, each.span,
            f1(each.text, answers, lang) if item.gold is not None else 0.0,
        )
        for each in evidence_of(item.retrieval.question, item.retrieval.chunks, judge, ExtractiveConfig())
    ]  # fmt: skip


def mean_rank(asked: Sequence[tuple[Question, list[Candidate]]], weight: float) -> float:
    total = 0.0
    for question, candidates in asked:
        order = sorted(candidates, key=lambda each: -(each.odds + weight * each.coverage))
        total += reciprocal_rank(list(dict.fromkeys(each.name for each in order)), question.passage)
    return 100 * total / len(asked)


def best(windows: Sequence[Candidate], span_weight: float, weight: float) -> tuple[float, Candidate]:
    """The most relevant window's evidence, by which an answer is refused, and the window that answers."""
    chosen = max(windows, key=lambda each: each.odds + span_weight * each.span + weight * each.coverage)
    return max(each.odds for each in windows), chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qa", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reranker", default="starter/reranker")
    parser.add_argument("--work", type=Path, help="keep the knowledge bases in this folder for the next time")
    args = parser.parse_args()
    with LLM(embedding_model="starter/embedding", reranker_model=args.reranker) as llm:
        models = bind_engine(llm)
        judge = cached(models.reranker) if models.reranker is not None else None
        assert isinstance(judge, SpanFinder), "the reranker finds spans"
        for lang in LANGUAGES:
            sample = read_sample(args.qa, lang, args.questions, seed=args.seed, held_out=True)
            with TemporaryDirectory() as temporary:
                library = Library(args.work or Path(temporary), f"{lang}-held-out", sample.passages, models)
                asked = [
                    (question, ranked(question, library.search(question.text), judge))
                    for question in tqdm(sample.answerable, desc=f"{lang}, ranking")
                ]
                groups = [
                    [
                        windows_of(item, judge)
                        for question in tqdm(questions, desc=f"{lang}, windows")
                        if (item := make_item(question, library, answerable=answerable, seed=args.seed)) is not None
                    ]
                    for questions, answerable in ((sample.answerable, True), (sample.unanswerable, False))
                ]
                library.close()
            report(lang, asked, *([each for each in group if each] for group in groups))


def report(
    lang: str,
    asked: Sequence[tuple[Question, list[Candidate]]],
    answerable: Sequence[list[Candidate]],
    unanswerable: Sequence[list[Candidate]],
) -> None:
    print(f"\n{lang}: MRR@10 by weight of coverage:", {w: round(mean_rank(asked, w), 1) for w in WEIGHTS})
    print("of the right passages, median coverage:", _median([
        each.coverage for question, found in asked for each in found if each.name == question.passage
    ]))  # fmt: skip
    for span_weight, weight in itertools.product(SPAN_WEIGHTS, WEIGHTS):
        chosen = [best(windows, span_weight, weight) for windows in answerable]
        line = f"span {span_weight} coverage {weight}: F1 {100 * sum(c.f1 for _, c in chosen) / len(chosen):.1f}"
        levels = sorted(evidence for evidence, _ in chosen)
        for share in FALSE_ABSTENTIONS:
            least = levels[int(share * len(levels))]
            refused = sum(best(windows, span_weight, weight)[0] < least for windows in unanswerable)
            kept = sum(c.f1 for evidence, c in chosen if evidence >= least)
            line += f" | from {least:.2f}: abstains {100 * refused / max(len(unanswerable), 1):.0f} % right, "
            line += f"{100 * share:.0f} % wrong, F1 {100 * kept / len(chosen):.1f}"
        print(line, flush=True)


def _median(values: Sequence[float]) -> float:
    return round(sorted(values)[len(values) // 2], 2) if values else 0.0


if __name__ == "__main__":
    main()
