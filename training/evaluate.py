"""Measures the starter models on questions that they were not trained on; prints the tables of their model cards.

Reader: five passages in the pipeline's own prompt, one of which answers. Reranker: all passages of a language, searched
as the pipeline searches. It trains nothing and chooses nothing. Progress goes to stderr, the tables to stdout.

    python training/evaluate.py --qa FOLDER [--questions 200] [--seed 0] [--out results.jsonl]

FOLDER holds dev.*.jsonl.gz (train.*.jsonl.gz for --held-out: for thresholds, never for a result).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from carrel import LLM, __version__  # noqa: E402
from carrel_rag.answerer import Answerer  # noqa: E402
from carrel_rag.embedding_reranker import EmbeddingReranker  # noqa: E402
from carrel_rag.engine_models import Models, bind_engine  # noqa: E402
from carrel_rag.extractive import ExtractiveConfig  # noqa: E402
from carrel_rag.protocols import SpanFinder  # noqa: E402
from carrel_rag.score_cache import cached  # noqa: E402
from rows import append_rows, machine  # noqa: E402
from tqdm import tqdm  # noqa: E402

from training.evaluation import answers, baselines  # noqa: E402
from training.evaluation.five import Item, make_item  # noqa: E402
from training.evaluation.library import Library, Ranking  # noqa: E402
from training.evaluation.questions import LANGUAGES, read_sample  # noqa: E402
from training.evaluation.table import (  # noqa: E402
    RankWorth,
    answers_table,
    json_rows,
    rank_worth,
    ranks_table,
)

PARTS = ("reader", "reranker", "baselines")
T = TypeVar("T")
Answered = dict[tuple[str, str], answers.Worth]  # by language and way
Ranked = dict[tuple[str, str], RankWorth]  # by language and ranking


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    ranked: Ranked = {}
    answered: Answered = {}
    with LLM(args.reader, embedding_model=args.embedding, reranker_model=args.reranker) as llm:
        models = bind_engine(llm)
        ways = ways_to_answer(models, args.only, args.thresholds)
        facts = {**provenance(llm), "split": "held out" if args.held_out else "dev", "seed": args.seed}
        for lang in args.languages:
            ours, theirs = measure(lang, ways, models, args)
            answered, ranked = {**answered, **ours}, {**ranked, **theirs}
            if args.out:
                rows = json_rows(ours, "answer") + json_rows(theirs, "ranking")
                append_rows(args.out, [{**row, **facts} for row in rows])
    for table in (answers_table(answered) if answered else "", ranks_table(ranked) if ranked else ""):
        if table:
            print(f"{table}\n", flush=True)


def measure(
    lang: str, ways: Mapping[str, answers.Way], models: Models, args: argparse.Namespace
) -> tuple[Answered, Ranked]:
    """Both tables' part of one language; its knowledge base is searched once for all ways."""
    sample = read_sample(args.qa, lang, args.questions, seed=args.seed, held_out=args.held_out)
    questions = [*sample.answerable, *sample.unanswerable]
    items, rankings = list[Item](), list[dict[str, Ranking]]()
    with TemporaryDirectory() as temporary:
        name = f"{lang}-{'held-out' if args.held_out else 'dev'}"
        library = Library(args.work or Path(temporary), name, sample.passages, models)
        if "reranker" in args.only:
            rankings = [library.rankings(each.text) for each in _shown(sample.answerable, f"{lang}, rankings")]
        if ways:
            num_answerable = len(sample.answerable)
            made = (
                make_item(question, library, answerable=i < num_answerable, seed=args.seed)
                for i, question in enumerate(_shown(questions, f"{lang}, passages"))
            )
            items = [item for item in made if item is not None]
        library.close()
    answered: Answered = {}
    for name, way in ways.items():
        said = [way(item) for item in _shown(items, f"{lang}, {name}")]
        answered[lang, name] = answers.worth(items, said)
        if args.details:
            append_rows(args.details, [detail(name, item, each) for item, each in zip(items, said, strict=True)])
    gold = [question.passage for question in sample.answerable]
    names = rankings[0] if rankings else {}
    return answered, {(lang, name): rank_worth([each[name] for each in rankings], gold) for name in names}


def _shown(some: Sequence[T], what: str) -> tqdm[T]:
    return tqdm(some, desc=what, unit="question")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qa", type=Path, required=True, help="the folder of the questions")
    parser.add_argument(
        "--questions", type=int, default=200, help="answerable ones of each language; half as many others"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the numbers to this file, with machine, versions and command")
    parser.add_argument("--details", type=Path, help="append every question with every answer to this file")
    parser.add_argument("--work", type=Path, help="keep the knowledge bases in this folder for the next time")
    parser.add_argument("--only", type=_some_of(*PARTS), default=PARTS, help="some of reader,reranker,baselines")
    parser.add_argument(
        "--thresholds", type=_numbers, default=(), help="of the extractive mode, such as 0.2,0.4: a row each"
    )
    parser.add_argument("--languages", type=_some_of(*LANGUAGES), default=LANGUAGES, help="some of en,zh")
    parser.add_argument("--held-out", action="store_true", help="titles of the train files that training leaves out")
    parser.add_argument("--reader", default="starter/reader", help="another reader's folder")
    parser.add_argument("--reranker", default="starter/reranker", help="another reranker's folder")
    parser.add_argument("--embedding", default="starter/embedding", help="another embedding model's folder")
    return parser.parse_args(argv)


def _some_of(*known: str) -> Callable[[str], tuple[str, ...]]:
    """Names between commas, each of them known."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"some of {','.join(known)}, got {text}")
        return chosen

    return parse


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def ways_to_answer(models: Models, only: Sequence[str], thresholds: Sequence[float]) -> dict[str, answers.Way]:
    """Name in the table → way; the readers' and the extractive ones as the pipeline asks them."""
    judge = cached(models.reranker or EmbeddingReranker(models.embedder))
    ways: dict[str, answers.Way] = {}
    if "baselines" in only:
        ways["first sentence of the first passage"] = answers.first_sentence
        ways["sentence of most overlap"] = answers.by_overlap(baselines.best_sentence)
        ways["span of most overlap"] = answers.by_overlap(baselines.best_span)
    configs = extractive_configs(thresholds, spans=isinstance(judge, SpanFinder)) if "baselines" in only else {}
    for name, config in configs.items():
        ways[name] = answers.by_pipeline(Answerer(judge, None, config), "extractive")
    if "reader" in only:
        reader = Answerer(judge, models.chat, ExtractiveConfig())
        alone = Answerer(EmbeddingReranker(models.embedder), models.chat, ExtractiveConfig())
        ways["reader, free"] = answers.by_pipeline(reader, "generative")
        ways["reader, constrained alone"] = answers.by_pipeline(alone, "generative", constrain=True)
        ways["reader, constrained"] = answers.by_pipeline(reader, "generative", constrain=True)
    return ways


def extractive_configs(thresholds: Sequence[float], *, spans: bool) -> dict[str, ExtractiveConfig]:
    """The pipeline's own, and one for each threshold: windows and sentences are judged once for all of them."""
    plain = ExtractiveConfig()
    configs = {"extractive, sentences": replace(plain, answer="sentence")}
    for each in thresholds:
        configs[f"extractive, sentences from {each}"] = replace(
            plain, answer="sentence", min_score=each, min_relevance=each
        )
    if spans:
        configs["extractive, spans"] = replace(plain, answer="span")
        for each in thresholds:
            configs[f"extractive, spans from {each}"] = replace(plain, answer="span", min_relevance=each)
    return configs


def detail(way: str, item: Item, said: answers.Said) -> dict[str, Any]:
    question = item.question
    asked = {"id": question.id, "question": question.text, "answers": question.answers, "gold": item.gold}
    return {"answer": way, **asked, **asdict(said)}


def provenance(llm: LLM) -> dict[str, Any]:
    """What the numbers belong to: this machine and commit, these weights."""
    facts = {**machine(), "carrel": __version__}
    for task in ("chat", "embedding", "rerank"):
        hosted = llm.host.get(None, task)
        digest = hashlib.sha256((hosted.folder / "model.safetensors").read_bytes()).hexdigest()
        facts[task] = f"{hosted.names[0]} {digest[:12]}"
    facts["command"] = " ".join(["python", "training/evaluate.py", *sys.argv[1:]])
    return facts


if __name__ == "__main__":
    main()
