"""Trains ``starter/reader``: a small Qwen2 that answers from numbered passages, quotes, cites and abstains.

First sentences with a gap over one passage, then questions over one, two, four and five passages in the pipeline's
prompt; the share of each grows and shrinks as ``LESSONS`` says. Rows are made from the seed and the step alone, so a
run that was stopped goes on as if it had not been. It knows the order of lessons and the loop.

On a CPU, one size smaller, about two hours on one core:

    python -m training.reader.train --qa FOLDER --text FOLDER --work FOLDER

On a GPU in legs (each stops by itself, the same command goes on; the weights are written after each leg). What takes
long or needs more than torch, transformers, tokenizers and numpy is done before, on any machine, by ``--prepare``; the
work folder (40 MB) is then all that travels, beside the data::

    python -m training.reader.train --qa FOLDER --text FOLDER --work FOLDER --size gpu --prepare
    python -m training.reader.train --qa FOLDER --text FOLDER --work FOLDER --size gpu --device cuda --minutes 7
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from training.int8_rows import write_int8_rows
from training.reader.model import SIZES, Model, Row, losses, make_model
from training.reader.tasks import Chat, Tasks, as_chat
from training.reader.tokens import END_OF_TEXT, IM_END, IM_START, first_embedding, token_id, train_tokenizer
from training.reranker.data import (
    Example,
    Window,
    cut_windows,
    load_examples,
    make_examples,
    read_questions,
    save_examples,
)

HERE = Path(__file__).parent
CONTEXT = 2048
POOL = 64  # rows drawn for a step, which takes some of like length
SKIPPED = ("tinyshakespeare",)  # of the texts: no passages for questions
TEXT_WINDOWS = 8_000  # of each language
RATE, WORD_RATE = 1e-3, 3e-4  # learning rates: of the layers, of the embedding
LOOK_WEIGHT, TEXT_WEIGHT = 0.5, 0.2  # beside the reply's loss


class Lesson(NamedTuple):
    """What is taught until ``until`` (0..1 of all steps)."""

    until: float
    cloze: float  # share of gaps; the rest are questions
    passages: tuple[int, int]  # fewest and most
    rules: float  # share of prompts with the system message
    absent: float  # share of questions whose answer was left out
    text_share: float  # of the prompt's tokens that are learned too
    chats: float = 0.0  # share of steps with self-written exchanges instead


LESSONS = (
    Lesson(0.25, 0.5, (1, 1), 0.0, 0.0, 0.12),
    Lesson(0.55, 0.15, (1, 2), 0.0, 0.05, 0.06),
    Lesson(0.85, 0.05, (1, 4), 0.2, 0.15, 0.0),
    Lesson(0.88, 0.0, (3, 5), 1.0, 0.2, 0.0),
    # A reader that is seldom sure says nothing where a fifth has no answer. That is for the reranker to judge.
    Lesson(1.0, 0.0, (3, 5), 1.0, 0.03, 0.0, chats=0.6),
)


def render(messages: Sequence[dict[str, str]]) -> str:
    """As ``template.jinja`` does without tools."""
    turns = [f"{IM_START}{message['role']}\n{message['content']}{IM_END}\n" for message in messages]
    return "".join(turns) + f"{IM_START}assistant\n"


def make_row(chat: Chat, tokenizer: Tokenizer, *, rules: bool) -> Row:
    messages = chat.messages if rules else chat.messages[-1:]
    text = render(messages)
    prompt = tokenizer.encode(text)
    reply = tokenizer.encode(chat.reply + IM_END)
    base = text.rindex(f"{IM_START}user\n") + len(f"{IM_START}user\n")
    looks = []
    for number, (start, _) in enumerate(reply.offsets):
        if start < len(chat.answer) and chat.places:
            seen = {prompt.char_to_token(base + place + start) for place in chat.places}
            if known := tuple(sorted(i for i in seen if i is not None)):
                looks.append((len(prompt.ids) - 1 + number, known))
    return Row([*prompt.ids, *reply.ids], len(prompt.ids), tuple(looks))


@dataclass
class Supply:
    """The rows of each step."""

    tasks: Tasks
    examples: Sequence[Example]
    chats: Sequence[tuple[str, str]]
    tokenizer: Tokenizer
    tokens: int  # of a step, padding included
    seed: int

    def rows(self, step: int, done: float) -> tuple[list[Row], Lesson]:
        rng = random.Random(f"{self.seed}/{step}")
        lesson = next(lesson for lesson in LESSONS if done <= lesson.until)
        if rng.random() < lesson.chats:
            return [self._chat(*chat) for chat in self.chats], lesson
        num_passages = rng.randint(*lesson.passages)
        drawn = [self._row(lesson, num_passages, rng) for _ in range(POOL)]
        pool = sorted((row for row in drawn if len(row.ids) <= CONTEXT), key=lambda row: len(row.ids))
        start = rng.randrange(len(pool))
        rows = [pool[start]]
        for row in (*pool[start + 1 :], *reversed(pool[:start])):  # like lengths: little of a step is padding
            if max(len(row.ids), len(rows[-1].ids)) * (len(rows) + 1) > self.tokens:
                break
            rows.append(row)
        return rows, lesson

    def _chat(self, user: str, assistant: str) -> Row:
        return make_row(Chat([{"role": "user", "content": user}], assistant, (), ""), self.tokenizer, rules=False)

    def _row(self, lesson: Lesson, num_passages: int, rng: random.Random) -> Row:
        while True:
            if rng.random() < lesson.cloze:
                task = self.tasks.cloze(num_passages, rng)
            else:
                example = rng.choice(self.examples)
                absent = rng.random() < lesson.absent * (1.3 if example.lang == "zh" else 0.5)
                if example.positive is None and rng.random() >= 5 * lesson.absent:
                    continue
                task = self.tasks.question(example, num_passages, rng, absent=absent)
            if task is not None and len(task.answer) <= 120:
                return make_row(as_chat(task), self.tokenizer, rules=rng.random() < lesson.rules)


class Trainer:
    """The model on its way, and its state in one file."""

    def __init__(self, model: Model, supply: Supply, args: argparse.Namespace) -> None:
        self.model, self.supply, self.args, self.step = model.to(args.device), supply, args, 0
        words = model.model.embed_tokens.weight
        rest = [p for p in model.parameters() if p is not words]
        groups = [{"params": [words], "lr": WORD_RATE, "weight_decay": 0.0}, {"params": rest, "lr": RATE}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def train_step(self) -> dict[str, float]:
        done = self.step / self.args.steps
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, (self.step + 1) / 100) * max(0.4, 1.0 - done)
        rows, lesson = self.supply.rows(self.step, done)
        parts = losses(self.model, rows, self.args.device, lesson.text_share)
        weights = {"reply": 1.0, "look": LOOK_WEIGHT, "text": TEXT_WEIGHT}
        torch.stack([weights[name] * loss for name, loss in parts.items()]).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"rows": len(rows), **{name: round(loss.item(), 4) for name, loss in parts.items()}}

    def save(self) -> None:
        """Weights, moments and the step, replaced at once."""
        state = {f"model.{name}": value for name, value in self._weights()}
        for i, moments in sorted(self.optimizer.state_dict()["state"].items()):
            state |= {f"moments.{i}.{name}": value for name, value in moments.items()}
        state["step"] = torch.tensor(self.step)
        save_file({name: value.contiguous() for name, value in state.items()}, self.args.work / "state.new")
        (self.args.work / "state.new").replace(self.args.work / "state.safetensors")

    def load(self) -> None:
        state = load_file(self.args.work / "state.safetensors", device=self.args.device)
        self.step = int(state["step"])
        weights = {name[len("model.") :]: value for name, value in state.items() if name.startswith("model.")}
        self.model.load_state_dict(weights, strict=False)  # the head is the embedding
        moments: dict[int, dict[str, Any]] = {}
        for name, value in state.items():
            if name.startswith("moments."):
                _, index, field = name.split(".", 2)
                moments.setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in self.model.state_dict().items():
            if name != "lm_head.weight":
                yield name, value

    def export(self, folder: Path) -> None:
        """A model folder as ``starter/reader`` is one."""
        folder.mkdir(parents=True, exist_ok=True)
        write_int8_rows(dict(self._weights()), folder / "model.safetensors")
        tokenizer = self.supply.tokenizer
        tokenizer.save(str(folder / "tokenizer.json"))
        config = self.model.config.to_dict() | {"architectures": ["Qwen2ForCausalLM"], "dtype": "float32"}
        ends = [token_id(tokenizer, IM_END), token_id(tokenizer, END_OF_TEXT)]
        _write(folder / "config.json", {name: value for name, value in config.items() if not name.startswith("_")})
        _write(folder / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False})
        special = {"bos_token": None, "eos_token": IM_END, "pad_token": END_OF_TEXT, "add_bos_token": False}
        template = (HERE / "template.jinja").read_text(encoding="utf-8")
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "chat_template": template}
        _write(folder / "tokenizer_config.json", {**special, **about, "clean_up_tokenization_spaces": False})


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def run(trainer: Trainer, args: argparse.Namespace) -> None:
    """Until the last step, or until the leg's minutes are over; then the state and the weights are written."""
    started = saved = time.monotonic()
    with (args.work / "loss.jsonl").open("a", encoding="utf-8") as log:
        while trainer.step < args.steps and time.monotonic() - started < args.minutes * 60:
            before = time.monotonic()
            row = {"step": trainer.step + 1, **trainer.train_step(), "s": round(time.monotonic() - before, 2)}
            print(json.dumps(row), file=log, flush=True)
            if row["step"] % 50 == 0:
                print(row, flush=True)
            if time.monotonic() - saved > args.save_seconds:
                trainer.save()
                saved = time.monotonic()
    trainer.save()
    trainer.export(args.work / "model")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qa", type=Path, required=True, help="folder with train.*.jsonl.gz")
    parser.add_argument("--text", type=Path, required=True, help="folder with lm.*.jsonl.gz")
    parser.add_argument("--work", type=Path, required=True, help="where the state is kept, and the model written")
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=1200, help="6,000 suit a GPU")
    parser.add_argument("--tokens", type=int, default=6144, help="of a step; 32,768 suit a GPU")
    parser.add_argument("--minutes", type=float, default=1e9, help="of this leg")
    parser.add_argument("--prepare", action="store_true", help="only write what training begins with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-seconds", type=float, default=240)
    return parser.parse_args()


def read_texts(folder: Path, seed: int) -> list[Window]:
    """Windows of plain text, as many of each language."""
    rng = random.Random(seed)
    found: list[Window] = []
    for lang in ("en", "zh"):
        windows = [
            Window(lang, "", piece)
            for row in read_questions([folder / f"lm.{lang}.jsonl.gz"])
            if not row["source"].startswith(SKIPPED)
            for piece in cut_windows(row["text"], lang)
        ]
        found += rng.sample(windows, min(TEXT_WINDOWS, len(windows)))
    return found


def prepare(args: argparse.Namespace) -> tuple[Supply, torch.Tensor]:
    """The rows' supply, and the embedding that the model begins with."""
    paths = [args.qa / f"train.{lang}.jsonl.gz" for lang in ("en", "zh")]
    kept = args.work / "examples.json"
    if not kept.is_file():
        save_examples(kept, *make_examples(paths, seed=args.seed))
    windows, examples = load_examples(kept)
    texts = read_texts(args.text, args.seed)
    chats = [(row["user"], row["assistant"]) for row in map(json.loads, (HERE / "chats.jsonl").open(encoding="utf-8"))]
    path = args.work / f"tokenizer.{args.size}.json"
    if not path.is_file():
        spoken = [text for chat in chats for text in chat] * 20
        lines = [window.text for window in (*windows, *texts)]
        train_tokenizer([*lines, *spoken], SIZES[args.size].vocab_size).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    training = [example for example in examples if not example.held_out]
    supply = Supply(Tasks(windows, examples, texts), training, chats, tokenizer, args.tokens, args.seed)
    words = args.work / f"words.{args.size}.safetensors"
    if not words.is_file():
        from carrel.starter.minilm import find_minilm  # not needed where the file is there already

        save_file({"words": first_embedding(tokenizer, find_minilm(), args.seed).half()}, words)
    return supply, load_file(words)["words"].float()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    supply, words = prepare(args)
    if args.prepare:
        return
    ends = token_id(supply.tokenizer, END_OF_TEXT), token_id(supply.tokenizer, IM_END)
    trainer = Trainer(make_model(SIZES[args.size], words, CONTEXT, *ends), supply, args)
    if (args.work / "state.safetensors").is_file():
        trainer.load()
    count = sum(p.numel() for p in trainer.model.parameters())
    print(
        f"{count:,} parameters, {len(supply.examples)} questions, from step {trainer.step} of {args.steps}", flush=True
    )
    run(trainer, args)


if __name__ == "__main__":
    main()
