"""The two tables, in Markdown, and the same numbers as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from training.evaluation.answers import Worth
from training.evaluation.library import Ranking
from training.evaluation.metrics import Mean, mean_of, reciprocal_rank

NAMES = {"en": "English", "zh": "Chinese"}
ANSWERS_HEAD = (
    "language", "answer", "questions", "F1", "exact", "abstains: no answer there", "abstains: answer there",
    "cites it when right", "s/question",
)  # fmt: skip
RANKS_HEAD = ("language", "ranking", "questions", "MRR@10", "recall@1", "s/question")


@dataclass(frozen=True)
class RankWorth:
    """One ranking in one language."""

    mrr: Mean
    recall_at_1: Mean
    seconds: Mean


def rank_worth(rankings: Sequence[Ranking], gold: Sequence[str], *, seed: int = 0) -> RankWorth:
    """``gold``: the name of each question's own passage."""
    pairs = list(zip(rankings, gold, strict=True))
    return RankWorth(
        mrr=mean_of([reciprocal_rank(ranking.passages, name) for ranking, name in pairs], seed),
        recall_at_1=mean_of([reciprocal_rank(ranking.passages, name, 1) for ranking, name in pairs], seed),
        seconds=mean_of([ranking.seconds for ranking in rankings], seed),
    )


def answers_table(found: Mapping[tuple[str, str], Worth]) -> str:
    """``found``: by language and way."""
    rows = [
        (
            NAMES[lang], way, f"{w.f1.count} + {w.abstains_unanswerable.count}", w.f1.percent(), w.exact.percent(),
            w.abstains_unanswerable.percent(), w.abstains_answerable.percent(), w.cited.percent(),
            f"{w.seconds.value:.3f}",
        )
        for (lang, way), w in found.items()
    ]  # fmt: skip
    return markdown(ANSWERS_HEAD, rows)


def ranks_table(found: Mapping[tuple[str, str], RankWorth]) -> str:
    """``found``: by language and ranking."""
    rows = [
        (NAMES[lang], name, str(w.mrr.count), w.mrr.percent(), w.recall_at_1.percent(), f"{w.seconds.value:.3f}")
        for (lang, name), w in found.items()
    ]
    return markdown(RANKS_HEAD, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def json_rows(found: Mapping[tuple[str, str], Worth | RankWorth], key: str) -> list[dict[str, Any]]:
    """``key``: what the second half of the keys is, "answer" or "ranking"."""
    return [{"lang": lang, key: name, **_numbers(worth)} for (lang, name), worth in found.items()]


def _numbers(worth: Worth | RankWorth) -> dict[str, Any]:
    """Each mean as {mean, low, high, count}."""
    numbers: dict[str, Any] = {}
    for each in fields(worth):
        mean: Mean = getattr(worth, each.name)
        rounded = {"mean": round(mean.value, 4), "low": round(mean.low, 4), "high": round(mean.high, 4)}
        numbers[each.name] = {**rounded, "count": mean.count}
    return numbers
