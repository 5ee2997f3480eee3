"""Questions and passages of one language, from the files of the data. Draws a sample; knows no models.

Measured is on the dev files, or on the titles of the train files that training leaves out: those are for choosing.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
HELD_OUT = 20  # one title of so many, by the same rule as in training


@dataclass(frozen=True)
class Passage:
    """A text that questions are asked about; ``name`` is what it is indexed under."""

    name: str
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """``passage`` is the name of its own; with no answers that passage only looks as if it answered."""

    id: str
    lang: str
    text: str
    answers: tuple[str, ...]
    passage: str
    title: str


@dataclass(frozen=True)
class Sample:
    """All passages of a language, and the questions that are asked.

    ``unanswerable`` are asked beside passages that do not hold the answer: in English the sets' own, with the passage
    they were written for; Chinese has none, so answerable ones without it.
    """

    lang: str
    passages: tuple[Passage, ...]
    answerable: tuple[Question, ...]
    unanswerable: tuple[Question, ...]


def read_sample(folder: Path, lang: str, number: int, *, seed: int, held_out: bool = False) -> Sample:
    """``number`` answerable questions and half as many unanswerable ones, or all there are."""
    rows = _read_rows(folder / f"{'train' if held_out else 'dev'}.{lang}.jsonl.gz")
    if held_out:
        rows = [row for row in rows if is_held_out(row["title"])]
    passages: dict[str, Passage] = {}
    for row in rows:
        passages.setdefault(row["context"], Passage(f"{lang}-{len(passages):05}", row["title"], row["context"]))
    questions = [
        Question(row["id"], lang, row["question"], tuple(row["answers"]), passages[row["context"]].name, row["title"])
        for row in rows
    ]
    rng = random.Random(f"{seed}/{lang}")
    answerable = _shuffled([question for question in questions if question.answers], rng)
    unanswerable = _shuffled([question for question in questions if not question.answers], rng)
    if not unanswerable:
        unanswerable = answerable[number:] or answerable
    return Sample(lang, tuple(passages.values()), tuple(answerable[:number]), tuple(unanswerable[: -(-number // 2)]))


def is_held_out(title: str) -> bool:
    return sum(title.encode()) % HELD_OUT == 0


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def _shuffled(questions: Sequence[Question], rng: random.Random) -> list[Question]:
    return rng.sample(questions, len(questions))
