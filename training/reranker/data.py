"""Questions with windows of passages that answer them and windows that look as if they did. Knows files and search.

A window is what a reranker sees in use: some sentences of a passage. Hard negatives are windows that BM25 or MiniLM
find for the question and that hold none of its answers.
"""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from carrel import LLM, PoolingParams
from carrel_rag.lexical import index_terms, query_terms
from carrel_rag.sentences import split_sentences

WINDOW_UNITS = 110  # words, or Chinese characters
NUM_HARD = 12  # hard negatives that are kept for each question
HELD_OUT = 20  # one title of so many is for choosing, never for training


@dataclass(frozen=True)
class Window:
    """A piece of a passage."""

    lang: str
    title: str
    text: str


@dataclass(frozen=True)
class Example:
    """A question, the window that answers it (none: the passage only looks as if it did) and hard negatives."""

    question: str
    lang: str
    positive: int | None
    negatives: tuple[int, ...]
    held_out: bool
    answers: tuple[str, ...] = ()


def read_questions(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            yield json.loads(line)


def cut_windows(text: str, lang: str) -> list[str]:
    """Sentences packed into windows of about ``WINDOW_UNITS``; a longer sentence is a window."""
    windows: list[str] = []
    start = end = units = 0
    for first, last in split_sentences(text):
        size = last - first if lang == "zh" else text.count(" ", first, last) + 1
        if units and units + size > WINDOW_UNITS:
            windows.append(text[start:end])
            start, units = first, 0
        end, units = last, units + size
    return [*windows, text[start:end]] if units else windows


class Bm25:
    """SQLite's FTS5 over the pipeline's own terms."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._database = sqlite3.connect(":memory:")
        self._database.execute("CREATE VIRTUAL TABLE terms USING fts5 (words, tokenize = 'unicode61')")
        rows = ((i, " ".join(index_terms(f"{window.title} {window.text}"))) for i, window in enumerate(windows))
        self._database.executemany("INSERT INTO terms (rowid, words) VALUES (?, ?)", rows)

    def search(self, question: str, limit: int) -> list[int]:
        words = query_terms(question)
        if not words:
            return []
        found = self._database.execute(
            "SELECT rowid FROM terms WHERE terms MATCH ? ORDER BY rank LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), limit),
        )
        return [row for (row,) in found]


def embed(texts: Sequence[str]) -> np.ndarray:
    """[len(texts), 384] fp32, of MiniLM."""
    with LLM(embedding_model="starter/embedding") as llm:
        return np.stack([o.outputs.embedding for o in llm.embed(texts, PoolingParams(truncate_prompt_tokens=-1))])


def nearest(questions: Sequence[str], windows: Sequence[Window], limit: int) -> list[list[int]]:
    """For each question the windows of nearest vectors."""
    vectors, asked = embed([window.text for window in windows]), embed(questions)
    found: list[list[int]] = []
    for start in range(0, len(asked), 512):
        scores = asked[start : start + 512] @ vectors.T
        found += np.argpartition(-scores, limit, axis=1)[:, :limit].tolist()
    return found


def make_examples(paths: Sequence[Path], *, seed: int, dense: bool = True) -> tuple[list[Window], list[Example]]:
    """All windows, and an example for each question whose answer stands in a window."""
    rows = list(read_questions(paths))
    windows: list[Window] = []
    places: dict[str, list[int]] = {}  # context → its windows
    for row in rows:
        if row["context"] not in places:
            pieces = cut_windows(row["context"], row["lang"])
            places[row["context"]] = list(range(len(windows), len(windows) + len(pieces)))
            windows += [Window(row["lang"], row["title"], piece) for piece in pieces]
    lexical = Bm25(windows)
    english = [i for i, window in enumerate(windows) if window.lang == "en"]
    asked = [i for i, row in enumerate(rows) if row["lang"] == "en"]
    near: dict[int, list[int]] = {}
    if dense and asked:
        found = nearest([rows[i]["question"] for i in asked], [windows[i] for i in english], 12)
        near = {i: [english[j] for j in js] for i, js in zip(asked, found, strict=True)}
    rng = random.Random(seed)
    examples = [
        example
        for i, row in enumerate(rows)
        if (example := _example(row, windows, places, lexical, near.get(i, []), rng)) is not None
    ]
    return windows, examples


def save_examples(path: Path, windows: Sequence[Window], examples: Sequence[Example]) -> None:
    """The search for negatives takes minutes; its result is kept as JSON."""
    found = {"windows": [vars(window) for window in windows], "examples": [vars(example) for example in examples]}
    path.with_suffix(".new").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    path.with_suffix(".new").replace(path)


def load_examples(path: Path) -> tuple[list[Window], list[Example]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    examples = [
        Example(**{**row, "negatives": tuple(row["negatives"]), "answers": tuple(row["answers"])})
        for row in found["examples"]
    ]
    return [Window(**row) for row in found["windows"]], examples


def _example(
    row: dict[str, Any], windows: Sequence[Window], places: dict[str, list[int]], lexical: Bm25, near: Sequence[int],
    rng: random.Random,
) -> Example | None:  # fmt: skip
    answers = [answer.lower() for answer in row["answers"]]
    own = places[row["context"]]
    positive = next((i for i in own if any(answer in windows[i].text.lower() for answer in answers)), None)
    if answers and positive is None:
        return None  # a long answer in its own words, or one that lies across two windows
    found = [*lexical.search(row["question"], 20), *near, *own]
    wrong = [
        i
        for i in dict.fromkeys(found)
        if windows[i].lang == row["lang"]
        and i != positive
        and not any(answer in windows[i].text.lower() for answer in answers)
        and (answers or i not in own)
    ]
    negatives = wrong[:NUM_HARD] + rng.sample(range(len(windows)), 2)
    held_out = sum(row["title"].encode()) % HELD_OUT == 0
    if not answers:  # the passage looks right and is wrong: it is the hardest negative, and there is no positive
        best = next((i for i in lexical.search(row["question"], 20) if i in own), own[0])
        return Example(row["question"], row["lang"], None, (best,), held_out)
    return Example(row["question"], row["lang"], positive, tuple(negatives), held_out, tuple(row["answers"]))
