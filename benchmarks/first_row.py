"""carrel beside transformers' generate on one random Qwen2-shaped model: same weights, same ids, same run, one row.

Knows how to make the model, time both sides in turns and write the row. Nothing is tuned yet; the ratio is the point,
since both sides share whatever else the machine does at that moment.

    python benchmarks/first_row.py [--dtype bfloat16] [--requests 8] [--prompt-tokens 128] [--output-tokens 64]
"""

from __future__ import annotations

import argparse
import json
import random
import runpy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from carrel import LLM, SamplingParams
from rows import ROOT, append_rows, machine

# About 90 million parameters: Qwen2.5-0.5B at two thirds of its width and a third of its depth.
SHAPE = {
    "vocab_size": 32_000,
    "hidden_size": 640,
    "intermediate_size": 3_456,
    "num_hidden_layers": 8,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4_096,
    "tie_word_embeddings": True,
}


def make_model(folder: Path, dtype: torch.dtype) -> Any:
    """Write the model to ``folder`` and give transformers' view of it."""
    script = runpy.run_path(str(ROOT / "scripts" / "make_tiny_models.py"))
    script["save_chatml_tokenizer"](folder)
    script["save_model"](script["random_model"]("Qwen2ForCausalLM", SHAPE), folder, dtype=dtype)
    model: Any = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.eval()


def sides(
    llm: LLM, model: Any, prompts: list[list[int]], output_tokens: int
) -> dict[str, Callable[[], list[list[int]]]]:
    """By name: generate exactly ``output_tokens`` tokens greedily for every prompt, and return them."""
    params = SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
    batch = torch.tensor(prompts)  # [num_requests, prompt_tokens]: equal lengths, so transformers pads nothing
    options = {"max_new_tokens": output_tokens, "min_new_tokens": output_tokens, "do_sample": False, "pad_token_id": 0}

    def carrel() -> list[list[int]]:
        return [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]

    @torch.inference_mode()
    def batched() -> list[list[int]]:
        made = model.generate(batch, attention_mask=torch.ones_like(batch), eos_token_id=None, **options)
        rows: list[list[int]] = made[:, batch.shape[1] :].tolist()
        return rows

    return {"carrel": carrel, "transformers": batched}


def measure(runs: dict[str, Callable[[], list[list[int]]]], rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each round by side, in turns, and the share of requests whose tokens agree."""
    made = {name: run() for name, run in runs.items()}  # warms up, and shows that both do the same work
    pairs = list(zip(made["carrel"], made["transformers"], strict=True))
    agree = sum(ours == theirs for ours, theirs in pairs) / len(pairs)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds, agree


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "first_row.jsonl")
    args = parser.parse_args()
    rng = random.Random(0)
    prompts = [[rng.randrange(5, 600) for _ in range(args.prompt_tokens)] for _ in range(args.requests)]
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), getattr(torch, args.dtype))
        with LLM(folder, max_model_len=4_096, max_num_seqs=args.requests, enable_prefix_caching=False) as llm:
            seconds, agree = measure(sides(llm, model, prompts, args.output_tokens), args.rounds)
    tokens = args.requests * args.output_tokens
    rates = {name: [round(tokens / second, 1) for second in taken] for name, taken in seconds.items()}
    best = {name: max(rate) for name, rate in rates.items()}
    workload = {"requests": args.requests, "prompt_tokens": args.prompt_tokens, "output_tokens": args.output_tokens}
    row = {
        "benchmark": "generate, greedy, Qwen2-shaped random model",
        "shape": SHAPE,
        "dtype": args.dtype,
        **workload,
        "output_tokens_per_second": rates,
        "ratio_of_best": round(best["carrel"] / best["transformers"], 2),
        "requests_with_equal_tokens": agree,
        **machine(),
        "transformers": transformers.__version__,
    }
    print(json.dumps(row, ensure_ascii=False, indent=2))
    append_rows(args.out, [row])


if __name__ == "__main__":
    main()
