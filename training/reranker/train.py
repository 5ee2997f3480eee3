"""Trains a cross-encoder out of MiniLM that reads English and Chinese, on a CPU in an hour or two.

It knows the model, the losses and how to go on after a stop. The questions come from ``data``, the tokens from
``vocabulary``. A step takes some questions, each with its window and hard negatives; the loss wants the window first
among them (softmax) and each score to be the probability that the window answers (binary), so that the scores of
different questions compare.

    python -m training.reranker.train --qa FOLDER --text FOLDER --work FOLDER

FOLDER of ``--qa`` holds train.*.jsonl.gz; ``--work`` keeps the state: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from carrel.starter.minilm import find_minilm
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig

from training.reranker.data import Example, Window, load_examples, make_examples, read_questions, save_examples
from training.reranker.model import SpanReranker, best_span, score_pairs, span_loss
from training.reranker.vocabulary import commonest_characters, embedding_rows, write_tokenizer

MAX_LENGTH = 512  # of the model; training pairs are cut to TRAIN_LENGTH
TRAIN_LENGTH = 256
NEGATIVES = 3  # for each question
BODY_RATE, NEW_RATE = 1e-4, 1e-3  # learning rates: of MiniLM's weights, of new rows and the heads
JUDGE_WEIGHT, SPAN_WEIGHT = 0.5, 0.7  # beside the ranking loss
WARM_UP = 80  # steps, at the beginning and after the rate was raised again
TITLED = 0.5  # share of questions whose windows stand under their titles, as passages do when they are ranked


@dataclass(frozen=True)
class Stage:
    """Some steps with as many questions of each kind in each, and what the learning rates are multiplied by."""

    steps: int
    english: int
    unanswerable: int  # English: no Chinese set has any
    chinese: int
    rate: tuple[float, float]  # at the beginning and at the end, a line between them


# MiniLM knew English already, and learns Chinese in the second stage most of all. The third goes through all of it
# again, or for the first time: the two before it ask half of the questions.
STAGES = (
    Stage(715, 4, 2, 6, (1.0, 0.5)),
    Stage(715, 2, 1, 9, (0.5, 0.02)),
    Stage(2000, 5, 2, 5, (0.5, 0.01)),
)
STEPS = sum(stage.steps for stage in STAGES)


def stage_of(step: int) -> tuple[Stage, int]:
    """The stage that a step belongs to, and how many of its steps were before.

    >>> stage_of(716)[1], stage_of(5000)[0] == STAGES[-1]
    (1, True)
    """
    for stage in STAGES[:-1]:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    return STAGES[-1], step


def rate_at(step: int) -> float:
    """What the learning rates are multiplied by.

    >>> round(rate_at(0), 4), round(rate_at(357), 2), rate_at(1430) < rate_at(1500) > rate_at(3200)
    (0.0125, 0.75, True)
    """
    stage, inside = stage_of(step)
    before = rate_at(step - inside - 1) if step > inside else 0.0
    rate = stage.rate[0] + (stage.rate[1] - stage.rate[0]) * inside / stage.steps
    return rate if before >= stage.rate[0] else rate * min(1.0, (inside + 1) / WARM_UP)


def new_model(texts: Sequence[str], work: Path, seed: int) -> SpanReranker:
    """MiniLM with the extended vocabulary and a head of one label; its tokenizer is written to ``work``."""
    torch.manual_seed(seed)
    source = find_minilm()
    rows = write_tokenizer(source, work / "model", commonest_characters(texts), max_length=MAX_LENGTH)
    weights = load_file(source / "model.safetensors")
    config = BertConfig.from_pretrained(source)
    config.vocab_size, config.num_labels = len(rows), 1
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0  # each question is seen about once
    config.architectures = ["BertForSequenceClassification"]
    config._attn_implementation = "eager"  # the fused kernel's backward pass takes three times as long on a CPU
    model = SpanReranker(config)
    word = "embeddings.word_embeddings.weight"
    weights[word] = embedding_rows(weights[word], rows, seed)
    weights.pop("embeddings.position_ids", None)
    model.bert.load_state_dict(weights, strict=True)
    (work / "model" / "old_rows.json").write_text(json.dumps(rows))
    config.save_pretrained(work / "model")
    return model


class Trainer:
    """The model on its way; its state is one file, so that a stop loses a few minutes at most."""

    def __init__(self, model: SpanReranker, tokenizer: Tokenizer, windows: Sequence[Window], work: Path) -> None:
        self.model, self.tokenizer, self.windows = model, tokenizer, windows
        self.work, self.step = work, 0
        rows = json.loads((work / "model" / "old_rows.json").read_text())
        self._num_known = sum(index >= 0 for index in rows)  # they come first
        named = dict(model.named_parameters())
        words = [named.pop("bert.embeddings.word_embeddings.weight")]
        heads = [named.pop(name) for name in list(named) if name.startswith(("classifier", "qa_outputs"))]
        groups = [
            {"params": words, "lr": NEW_RATE, "weight_decay": 0.0},
            {"params": heads, "lr": NEW_RATE},
            {"params": list(named.values()), "lr": BODY_RATE},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def loss(self, batch: Sequence[Example], rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step, and what it consists of."""
        groups = [_group(example, rng) for example in batch]
        heads = [rng.random() < TITLED for _ in batch]
        pairs = [
            (example.question, self._text(i, titled))
            for example, group, titled in zip(batch, groups, heads, strict=True)
            for i in group
        ]
        scored = iter(score_pairs(self.model, self.tokenizer, pairs))
        rank, judge, span, first = [], [], [], []
        for example, group, titled in zip(batch, groups, heads, strict=True):
            own = [next(scored) for _ in group]
            scores = torch.stack([each.score for each in own])
            target = torch.zeros_like(scores)
            if example.positive is not None:
                target[0] = 1.0
                rank.append(-scores.log_softmax(0)[0])
                first.append(float(scores.argmax() == 0))
                text = self._text(example.positive, titled)
                loss = span_loss(own[0], text, len(text) - len(self._text(example.positive, False)), example.answers)
                span += [loss] if loss is not None else []
            judge.append(F.binary_cross_entropy_with_logits(scores, target))
        parts = {"rank": _mean(rank), "judge": _mean(judge), "span": _mean(span)}
        total = parts["rank"] + JUDGE_WEIGHT * parts["judge"] + SPAN_WEIGHT * parts["span"]
        return total, {**{name: round(float(part), 4) for name, part in parts.items()}, "first": sum(first)}

    def _text(self, window: int, titled: bool) -> str:
        text, title = self.windows[window].text, self.windows[window].title
        return f"{title}\n{text}" if titled and title else text

    def train_step(self, batch: Sequence[Example], rng: random.Random) -> dict[str, float]:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_at(self.step)
        self.model.train()
        loss, parts = self.loss(batch, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        words: Tensor = self.model.bert.embeddings.word_embeddings.weight
        assert words.grad is not None, "every step reads words"
        words.grad[: self._num_known] = 0.0  # MiniLM's words stay as they are, the new characters learn
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return parts

    def save(self) -> None:
        """Weights, the optimizer's moments and the step, replaced at once."""
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, (_, moments) in enumerate(sorted(self.optimizer.state_dict()["state"].items())):
            state |= {f"moments.{i}.{name}": value for name, value in moments.items()}
        state["step"] = torch.tensor(self.step)
        save_file({name: value.contiguous() for name, value in state.items()}, self.work / "state.new")
        (self.work / "state.new").replace(self.work / "state.safetensors")

    def load(self) -> None:
        state = load_file(self.work / "state.safetensors")
        self.step = int(state["step"])
        strip = len("model.")
        self.model.load_state_dict({n[strip:]: v for n, v in state.items() if n.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("moments."):
                _, index, field = name.split(".", 2)
                moments.setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


@torch.inference_mode()
def judge(
    model: SpanReranker, tokenizer: Tokenizer, windows: Sequence[Window], examples: Sequence[Example]
) -> dict[str, float]:
    """Of held-out titles, by language: mean reciprocal rank among hard negatives, and how many spans are exact."""
    model.eval()  # type: ignore[no-untyped-call]
    ranks: dict[str, list[float]] = {"en": [], "zh": []}
    exact: dict[str, list[float]] = {"en": [], "zh": []}
    for example in examples:
        assert example.positive is not None, "the questions of a look have answers"
        asked = (example.positive, *example.negatives)
        scored = score_pairs(model, tokenizer, [(example.question, windows[i].text) for i in asked])
        better = sum(float(each.score) >= float(scored[0].score) for each in scored[1:])
        ranks[example.lang].append(1.0 / (1 + better))
        text = windows[example.positive].text
        found = best_span(scored[0].spans, scored[0].encoding)
        wanted = {answer.lower() for answer in example.answers}
        exact[example.lang].append(found is not None and text[found[0] : found[1]].lower() in wanted)
    return {
        f"{name}_{lang}": round(sum(values[lang]) / max(len(values[lang]), 1), 4)
        for name, values in (("mrr", ranks), ("exact", exact))
        for lang in ("en", "zh")
    }


def _group(example: Example, rng: random.Random) -> list[int]:
    """The windows that a question is asked with: its own first, if there is one."""
    own = [] if example.positive is None else [example.positive]
    return own + rng.sample(list(example.negatives), min(NEGATIVES, len(example.negatives)))


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean() if losses else torch.zeros(())


class Questions:
    """Which questions a step asks. Those of a kind come in an order that the seed decides, each once in an epoch."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._kinds: dict[str, list[Example]] = {"english": [], "unanswerable": [], "chinese": []}
        for example in examples:
            kind = "chinese" if example.lang == "zh" else "unanswerable" if example.positive is None else "english"
            self._kinds[kind].append(example)
        self._seed = seed

    def of(self, step: int) -> tuple[list[Example], random.Random]:
        """The examples of a step, and the chance for all else in it."""
        stage, inside = stage_of(step)
        asked = []
        for kind, examples in self._kinds.items():
            count = getattr(stage, kind)
            start = sum(getattr(each, kind) * each.steps for each in STAGES[: STAGES.index(stage)]) + inside * count
            asked += [self._at(kind, start + i) for i in range(count if examples else 0)]
        return asked, random.Random(f"{self._seed}/{step}")

    def _at(self, kind: str, place: int) -> Example:
        examples = self._kinds[kind]
        epoch, inside = divmod(place, len(examples))
        return examples[_order(f"{self._seed}/{kind}/{epoch}", len(examples))[inside]]


@functools.lru_cache(maxsize=8)
def _order(seed: str, count: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def run(trainer: Trainer, training: Sequence[Example], held_out: Sequence[Example], args: argparse.Namespace) -> None:
    log = (args.work / "loss.jsonl").open("a", encoding="utf-8")
    saved = time.monotonic()
    questions = Questions(training, args.seed)
    while trainer.step < STEPS:
        started = time.monotonic()
        parts = trainer.train_step(*questions.of(trainer.step))
        row: dict[str, Any] = {"step": trainer.step, **parts, "s": round(time.monotonic() - started, 2)}
        if trainer.step % args.judge_every == 0 or trainer.step == STEPS:
            row |= judge(trainer.model, trainer.tokenizer, trainer.windows, held_out)
            print(row, flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()
        if time.monotonic() - saved > args.save_seconds or trainer.step == STEPS:
            trainer.save()
            saved = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qa", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge-every", type=int, default=200)
    parser.add_argument("--judge-on", type=int, default=150, help="held-out questions of each look")
    parser.add_argument("--save-seconds", type=float, default=240)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    paths = [args.qa / f"train.{lang}.jsonl.gz" for lang in ("en", "zh")]
    kept = args.work / "examples.json"
    if not kept.is_file():
        save_examples(kept, *make_examples(paths, seed=args.seed))
    windows, examples = load_examples(kept)
    texts = [row["context"] for row in read_questions(paths[1:])]
    texts += [row["text"] for row in read_questions([args.text / "lm.zh.jsonl.gz"])]
    model = new_model(texts, args.work, args.seed)
    tokenizer = Tokenizer.from_file(str(args.work / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(TRAIN_LENGTH, strategy="only_second")
    trainer = Trainer(model, tokenizer, windows, args.work)
    if (args.work / "state.safetensors").is_file():
        trainer.load()
    held_out = [example for example in examples if example.held_out and example.positive is not None]
    training = [example for example in examples if not example.held_out]
    print(f"{len(training)} questions, {len(windows)} windows, from step {trainer.step} of {STEPS}", flush=True)
    run(trainer, training, random.Random(1).sample(held_out, min(args.judge_on, len(held_out))), args)


if __name__ == "__main__":
    main()
