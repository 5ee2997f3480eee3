"""Trains a cross-encoder out of MiniLM that reads English and Chinese, on a CPU in some hours: a reranker to come.

It knows the model, the losses and how to go on after a stop. The questions come from ``data``, the tokens from
``vocabulary``. A step takes some questions, each with its window and hard negatives; the loss wants the window first
among them (softmax) and each score to be the probability that the window answers (binary), so that the scores of
different questions compare.

    python training/reranker/train.py --qa FOLDER --text FOLDER --work FOLDER [--steps 2600]

FOLDER of ``--qa`` holds train.*.jsonl.gz; ``--work`` keeps the state: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from carrel.starter.minilm import find_minilm
from data import Example, Window, make_examples, read_questions
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification
from vocabulary import commonest_characters, embedding_rows, write_tokenizer

MAX_LENGTH = 512  # of the model; training pairs are cut to TRAIN_LENGTH
TRAIN_LENGTH = 256
QUESTIONS, NEGATIVES = 10, 4  # in a step; for each question
BODY_RATE, NEW_RATE = 8e-5, 8e-4  # learning rates: of MiniLM's weights, of new rows and the head
WARM_UP = 0.06
Model = Any  # transformers' decorators hide its types


def new_model(texts: Sequence[str], work: Path, seed: int) -> Model:
    """MiniLM with the extended vocabulary and a head of one label; its tokenizer is written to ``work``."""
    torch.manual_seed(seed)
    source = find_minilm()
    rows = write_tokenizer(source, work / "model", commonest_characters(texts), max_length=MAX_LENGTH)
    weights = load_file(source / "model.safetensors")
    config = BertConfig.from_pretrained(source)
    config.vocab_size, config.num_labels, config.hidden_dropout_prob = len(rows), 1, 0.1
    config.architectures = ["BertForSequenceClassification"]
    model: Model = BertForSequenceClassification(config)
    word = "embeddings.word_embeddings.weight"
    weights[word] = embedding_rows(weights[word], rows, seed)
    weights.pop("embeddings.position_ids", None)
    model.bert.load_state_dict(weights, strict=True)
    (work / "model" / "old_rows.json").write_text(json.dumps(rows))
    config.save_pretrained(work / "model")
    return model


class Trainer:
    """The model on its way; its state is one file, so that a stop loses a few minutes at most."""

    def __init__(self, model: Model, tokenizer: Tokenizer, windows: Sequence[Window], work: Path, steps: int) -> None:
        self.model, self.tokenizer, self.windows = model, tokenizer, windows
        self.work, self.steps, self.step = work, steps, 0
        fresh = [p for name, p in model.named_parameters() if "classifier" in name or "word_embeddings" in name]
        body = [p for name, p in model.named_parameters() if "classifier" not in name and "word_embeddings" not in name]
        groups = [{"params": fresh, "lr": NEW_RATE}, {"params": body, "lr": BODY_RATE}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        rows = json.loads((work / "model" / "old_rows.json").read_text())
        known = torch.tensor([index >= 0 for index in rows])
        scale = torch.where(known, BODY_RATE / NEW_RATE, 1.0).unsqueeze(1)  # known words learn as slowly as the body
        self._row_scale = scale

    def pairs(self, items: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
        """Token ids [num_pairs, length] of (question, window), padded."""
        encoded = self.tokenizer.encode_batch([(question, self.windows[i].text) for question, i in items])
        length = max(len(e.ids) for e in encoded)
        fields = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
        return {
            name: torch.tensor([[*getattr(e, field), *[0] * (length - len(e.ids))] for e in encoded])
            for name, field in fields.items()
        }

    def scores(self, items: Sequence[tuple[str, int]]) -> Tensor:
        """[num_pairs] raw scores in fp32; pairs of like length are computed together, so that little is padding."""
        order = sorted(range(len(items)), key=lambda i: len(self.windows[items[i][1]].text.encode()))
        parts = []
        for start in range(0, len(order), 25):
            part = [items[i] for i in order[start : start + 25]]
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(self.model(**self.pairs(part)).logits[:, 0].float())
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def loss(self, batch: Sequence[Example], rng: random.Random) -> tuple[Tensor, float]:
        """The loss, and the share of questions whose window comes first."""
        groups = []
        for example in batch:
            hard = list(example.negatives)
            chosen = rng.sample(hard, min(NEGATIVES, len(hard)))
            own = [] if example.positive is None else [example.positive]
            groups.append([(example.question, i) for i in own + chosen])
        flat = self.scores([pair for group in groups for pair in group])
        losses, first, start = [], [], 0
        for example, group in zip(batch, groups, strict=True):
            scores = flat[start : start + len(group)]
            start += len(group)
            target = torch.zeros_like(scores)
            if example.positive is not None:
                target[0] = 1.0
                losses.append(F.cross_entropy(scores.unsqueeze(0), torch.zeros(1, dtype=torch.int64)))
                first.append(float(scores.argmax() == 0))
            weight = 0.5 if example.positive is not None else 0.25
            losses.append(weight * F.binary_cross_entropy_with_logits(scores, target))
        return torch.stack(losses).sum() / len(batch), sum(first) / max(len(first), 1)

    def train_step(self, batch: Sequence[Example], rng: random.Random) -> tuple[float, float]:
        done, warm = self.step / self.steps, min(1.0, (self.step + 1) / (WARM_UP * self.steps))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warm * max(0.02, 1.0 - done)
        self.model.train()
        loss, first = self.loss(batch, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        words = self.model.bert.embeddings.word_embeddings.weight
        before = words.detach().clone()
        self.optimizer.step()
        with torch.no_grad():
            words.copy_(before + (words - before) * self._row_scale)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss), first

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
    def judge(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean reciprocal rank of the window among its hard negatives, held-out titles only, by language."""
        self.model.eval()
        found: dict[str, list[float]] = {"en": [], "zh": []}
        for example in examples:
            if example.positive is not None:
                scores = self.scores([(example.question, i) for i in (example.positive, *example.negatives)])
                found[example.lang].append(1.0 / (1 + int((scores[1:] >= scores[0]).sum())))
        return {lang: round(sum(values) / max(len(values), 1), 4) for lang, values in found.items()}


def batch_of(examples: Sequence[Example], step: int, seed: int) -> tuple[list[Example], random.Random]:
    """The examples of one step: each once in an epoch, in an order that the seed decides."""
    per_epoch = len(examples) // QUESTIONS
    epoch, place = divmod(step, per_epoch)
    order = list(range(len(examples)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    chosen = [examples[i] for i in order[place * QUESTIONS : (place + 1) * QUESTIONS]]
    return chosen, random.Random(f"{seed}/{step}")


def run(trainer: Trainer, training: Sequence[Example], held_out: Sequence[Example], args: argparse.Namespace) -> None:
    log = (args.work / "loss.jsonl").open("a", encoding="utf-8")
    saved = time.monotonic()
    while trainer.step < trainer.steps:
        started = time.monotonic()
        loss, first = trainer.train_step(*batch_of(training, trainer.step, args.seed))
        row: dict[str, Any] = {
            "step": trainer.step,
            "loss": round(loss, 4),
            "first": first,
            "s": round(time.monotonic() - started, 2),
        }
        if trainer.step % args.judge_every == 0 or trainer.step == trainer.steps:
            row["held_out_mrr"] = trainer.judge(held_out)
            print(row, flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()
        if time.monotonic() - saved > args.save_seconds or trainer.step == trainer.steps:
            trainer.save()
            saved = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qa", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge-every", type=int, default=200)
    parser.add_argument("--judge-on", type=int, default=150, help="held-out questions of each look")
    parser.add_argument("--save-seconds", type=float, default=240)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    paths = [args.qa / f"train.{lang}.jsonl.gz" for lang in ("en", "zh")]
    windows, examples = make_examples(paths, seed=args.seed)
    texts = [row["context"] for row in read_questions(paths[1:])]
    texts += [row["text"] for row in read_questions([args.text / "lm.zh.jsonl.gz"])]
    model = new_model(texts, args.work, args.seed)
    tokenizer = Tokenizer.from_file(str(args.work / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(TRAIN_LENGTH, strategy="only_second")
    trainer = Trainer(model, tokenizer, windows, args.work, args.steps)
    if (args.work / "state.safetensors").is_file():
        trainer.load()
    held_out = [example for example in examples if example.held_out and example.positive is not None]
    training = [example for example in examples if not example.held_out]
    print(f"{len(training)} questions, {len(windows)} windows, from step {trainer.step} of {trainer.steps}", flush=True)
    run(trainer, training, random.Random(1).sample(held_out, min(args.judge_on, len(held_out))), args)


if __name__ == "__main__":
    main()
