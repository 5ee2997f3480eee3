"""carrel beside transformers and sentence-transformers: same weights, same token ids, same machine, one row each.

Knows how to time and how to write a row. It does not know how to tune, and compares rows of one machine only. Rounds
of the sides alternate, and the best of each side counts: other work on the machine slows a round, never speeds it up.

    python benchmarks/starters.py [--rounds 3] [--out benchmarks/results/FILE.jsonl]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from carrel import LLM, PoolingParams, SamplingParams
from carrel.models.weights import Checkpoint
from rows import append_rows, machine

Round = Callable[[], int]  # runs once, returns the tokens or texts that it made

TEXT = """
time year people way day thing world life hand part place case week system question work number night point home
water room area money story fact month book right study word business issue side kind head house friend hour line
"""


def make_text(rng: random.Random, num_words: int) -> str:
    words = TEXT.split()
    return " ".join(rng.choice(words) for _ in range(num_words))


def as_transformers(folder: Path) -> Any:
    """The reader as transformers' model; its int8 rows, which transformers cannot read, become float32."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    checkpoint = Checkpoint(folder)
    weights = {name: checkpoint.load(name).float() for name in checkpoint.names}
    model: Any = Qwen2ForCausalLM(Qwen2Config.from_pretrained(folder))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, "only a tied head may be left out"
    model.tie_weights()
    return model.eval()


def chat_rounds(llm: LLM, num_requests: int, prompt_tokens: int, output_tokens: int) -> dict[str, Round]:
    """Greedy generation of exactly ``output_tokens`` tokens for each of ``num_requests`` prompts."""
    hosted = llm.host.get(None, "chat")
    rng = random.Random(0)
    text = make_text(rng, 2 * prompt_tokens * num_requests)
    ids = hosted.tokenizer.encode(text)
    prompts = [ids[i * prompt_tokens : (i + 1) * prompt_tokens] for i in range(num_requests)]
    params = SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
    model = as_transformers(hosted.folder)
    batch = torch.tensor(prompts)  # [num_requests, prompt_tokens]; equal lengths, so no padding
    options = {"max_new_tokens": output_tokens, "min_new_tokens": output_tokens, "do_sample": False}

    def carrel() -> int:
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    @torch.inference_mode()
    def transformers_batched() -> int:
        made = model.generate(batch, attention_mask=torch.ones_like(batch), temperature=None, top_p=None, **options)
        return int(made[:, prompt_tokens:].numel())

    @torch.inference_mode()
    def transformers_one_by_one() -> int:
        rows = [batch[i : i + 1] for i in range(num_requests)]
        mask = torch.ones_like(rows[0])
        made = [model.generate(row, attention_mask=mask, temperature=None, top_p=None, **options) for row in rows]
        return sum(int(row[:, prompt_tokens:].numel()) for row in made)

    return {
        "carrel": carrel,
        "transformers, one batch": transformers_batched,
        "transformers, one by one": transformers_one_by_one,
    }


def embed_rounds(llm: LLM, num_texts: int) -> dict[str, Round]:
    """Vectors of texts of 4 to 120 words."""
    from sentence_transformers import SentenceTransformer

    rng = random.Random(1)
    texts = [make_text(rng, rng.randint(4, 120)) for _ in range(num_texts)]
    model = SentenceTransformer(str(llm.host.get(None, "embedding").folder), device="cpu")

    def carrel() -> int:
        return len(llm.embed(texts, PoolingParams(truncate_prompt_tokens=-1), use_tqdm=False))

    def sentence_transformers() -> int:
        return len(model.encode(texts, batch_size=32, show_progress_bar=False))

    return {"carrel": carrel, "sentence-transformers": sentence_transformers}


def best_rates(rounds: dict[str, Round], num_rounds: int) -> dict[str, float]:
    """Side → the best units per second of ``num_rounds``, after one round each to warm up."""
    rates = dict.fromkeys(rounds, 0.0)
    for number in range(num_rounds + 1):
        for name, run in rounds.items():
            started = time.perf_counter()
            units = run()
            if number:
                rates[name] = max(rates[name], units / (time.perf_counter() - started))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="append the rows to this file")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with LLM() as llm:
        workloads: dict[str, tuple[str, dict[str, Round]]] = {
            "chat, 16 requests, 64 in, 64 out": ("tokens/s", chat_rounds(llm, 16, 64, 64)),
            "chat, 1 request, 64 in, 64 out": ("tokens/s", chat_rounds(llm, 1, 64, 64)),
            "embed, 128 texts of 4 to 120 words": ("texts/s", embed_rounds(llm, 128)),
        }
        for workload, (unit, rounds) in workloads.items():
            for side, rate in best_rates(rounds, args.rounds).items():
                rows.append({"workload": workload, "side": side, "rate": round(rate, 1), "unit": unit, **machine()})
                print(f"{workload:36}{side:28}{rate:10,.1f} {unit}", flush=True)
    if args.out:
        append_rows(args.out, rows)


if __name__ == "__main__":
    main()
