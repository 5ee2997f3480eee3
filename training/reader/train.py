"""Trains ``starter/reader``: a chat model of a few megabytes, Qwen2 architecture, in minutes on one CPU core.

It knows how to make a tokenizer and a model folder out of plain text. It does not know how to make a good model: 1.3
million parameters that saw about a million tokens produce the machinery of an answer, not an answer.

    OMP_NUM_THREADS=1 python training/reader/train.py --text FOLDER --out engine/carrel/starter/reader

FOLDER holds ``*.jsonl.gz`` files, one ``{"text": …, "source": …, "lang": "en" | "zh"}`` a line. Only the sources named
in SOURCES are read: all of them are CC BY 4.0, so that the weights need one licence and one notice.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

SOURCES = ("vue-docs.en", "vue-docs.zh", "react-docs.en", "react-docs.zh", "dify-docs.en", "dify-docs.zh")
MAX_CHARACTERS_PER_SOURCE = 400_000
HERE = Path(__file__).parent
Model = Any  # Qwen2ForCausalLM: transformers' decorators hide its types

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Words, single digits, punctuation with its line breaks, white space: Qwen2's way of cutting text before BPE.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def read_texts(folder: Path) -> dict[str, list[str]]:
    """Source → its documents, each source cut to ``MAX_CHARACTERS_PER_SOURCE``."""
    texts: dict[str, list[str]] = {name: [] for name in SOURCES}
    for path in sorted(folder.glob("*.jsonl.gz")):
        lines = gzip.decompress(path.read_bytes()).decode().removesuffix("\n").split("\n")
        for row in map(json.loads, lines):
            source = row["source"] if row["source"] in texts else f"{row['source']}.{row['lang']}"
            kept = texts.get(source)
            if kept is not None and sum(map(len, kept)) < MAX_CHARACTERS_PER_SOURCE:
                kept.append(row["text"])
    missing = [name for name, found in texts.items() if not found]
    if missing:
        raise SystemExit(f"No text of {', '.join(missing)} in {folder}.")
    return texts


def read_chats() -> list[tuple[str, str]]:
    """The self-written exchanges, (user, assistant)."""
    lines = (HERE / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["user"], row["assistant"]) for row in map(json.loads, lines)]


def as_chat(user: str, assistant: str) -> str:
    return f"{IM_START}user\n{user}{IM_END}\n{IM_START}assistant\n{assistant}{IM_END}\n"


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: every string has tokens, and no token is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, "special tokens were given to the trainer"
    return found


def make_model(tokenizer: Tokenizer, context: int) -> Model:
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=token_id(tokenizer, END_OF_TEXT),
        eos_token_id=token_id(tokenizer, IM_END),
    )
    return Qwen2ForCausalLM(config)


class Rows:
    """Endless training rows: windows of the texts, and rows packed with shuffled chats."""

    def __init__(
        self, tokenizer: Tokenizer, texts: list[str], chats: list[str], length: int, rng: random.Random
    ) -> None:
        self.length = length
        self.rng = rng
        self.chats = [encoding.ids for encoding in tokenizer.encode_batch(chats)]
        self.end = token_id(tokenizer, END_OF_TEXT)
        self.stream: list[int] = []
        for encoding in tokenizer.encode_batch(texts):
            self.stream += [*encoding.ids, self.end]

    def text(self) -> list[int]:
        start = self.rng.randrange(len(self.stream) - self.length - 1)
        return self.stream[start : start + self.length + 1]

    def chat(self) -> list[int]:
        row: list[int] = []
        while len(row) <= self.length:
            row += [*self.rng.choice(self.chats), self.end]
        return row[: self.length + 1]

    def batch(self, size: int, chat_share: float) -> torch.Tensor:
        """[size, length + 1] token ids."""
        rows = [self.chat() if self.rng.random() < chat_share else self.text() for _ in range(size)]
        return torch.tensor(rows)


def learning_rate(done: float, peak: float) -> float:
    """Linear warm-up over the first twentieth, then down to a tenth in a straight line. ``done`` is 0..1."""
    if done < 0.05:
        return peak * done / 0.05
    return peak * (1.0 - 0.9 * (done - 0.05) / 0.95)


def train(model: Model, rows: Rows, args: argparse.Namespace) -> Iterator[dict[str, float]]:
    """One dict a step: the loss, and how far it is. Ends with the steps, never with the clock: the seed decides."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    started = time.monotonic()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / args.steps, args.learning_rate)
        batch = rows.batch(args.batch, args.chat_share)
        logits = model(batch[:, :-1]).logits  # [batch, length, vocab]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield {"step": step + 1, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - started, 1)}


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def save(model: Model, tokenizer: Tokenizer, out: Path, context: int) -> None:
    """A Hugging Face folder: config, bf16 safetensors, tokenizer, chat template, generation defaults."""
    out.mkdir(parents=True, exist_ok=True)
    end, stop = token_id(tokenizer, END_OF_TEXT), token_id(tokenizer, IM_END)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=[stop, end], pad_token_id=end, do_sample=True, temperature=0.7, top_p=0.9
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(
        out / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": IM_END,
            "model_max_length": context,
            "pad_token": END_OF_TEXT,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def sample(model: Model, tokenizer: Tokenizer, question: str) -> str:
    prompt = tokenizer.encode(as_chat(question, "").removesuffix(f"{IM_END}\n")).ids
    with torch.inference_mode():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)[0]
    return tokenizer.decode(ids[len(prompt) :].tolist())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder with *.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--chat-share", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    by_source, chats = read_texts(args.text), [as_chat(*pair) for pair in read_chats()]
    texts = [text for source in by_source.values() for text in source]
    tokenizer = train_tokenizer(texts + chats * 20, args.vocab_size)
    rows = Rows(tokenizer, texts, chats, args.length, random.Random(args.seed))
    model = make_model(tokenizer, args.context)
    print({name: sum(map(len, source)) for name, source in by_source.items()}, "characters")
    print(f"{len(rows.stream):,} tokens of text, {model.num_parameters():,} parameters", flush=True)
    with (HERE / "loss.jsonl").open("w", encoding="utf-8") as log:
        for row in train(model, rows, args):
            if row["step"] % 10 == 0 or row["step"] == args.steps:
                print(json.dumps(row), file=log, flush=True)
                print(f"step {row['step']}/{args.steps}  loss {row['loss']}  {row['seconds']} s", flush=True)
    save(model, tokenizer, args.out, args.context)
    for question in ("Who are you?", "Hello!", "你是谁？", "How do I write a component?"):
        print(f"{question} → {sample(model, tokenizer, question)}")


if __name__ == "__main__":
    main()
