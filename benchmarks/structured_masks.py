"""What a mask costs: forms compiled and followed by many sequences at once, on the CPU, over a real vocabulary.

python benchmarks/structured_masks.py TOKENIZER_FOLDER [--rows 64] [--steps 40]

A line a form: compiling, and one step of all rows, which the engine spends while the device computes the logits.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.structured_output import GrammarCompiler, response_lark
from carrel.structured_params import StructuredOutputsParams
from carrel.tokenizer import Tokenizer
from carrel.worker.constraints import Constraints

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}},
        "age": {"type": ["integer", "null"]},
        "place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    "required": ["name", "tags", "age", "place"],
}


def passages(count: int = 5, size: int = 300) -> list[str]:
    """Made-up texts of ``size`` words each, half of them Chinese."""
    numbers = random.Random(0)
    english = [" ".join(f"w{numbers.randrange(900)}" for _ in range(size)) for _ in range(count // 2)]
    return english + [
        "".join(chr(numbers.randrange(0x4E00, 0x5E00)) for _ in range(2 * size)) for _ in range(count - len(english))
    ]


FORMS: dict[str, dict[str, Any]] = {
    "json schema": {"json": PERSON},
    "json object": {"json_object": True},
    "regex": {"regex": r"\d{4}-\d{2}-\d{2}( [^\n]{10,400})?"},
    "choice of 1000": {"choice": [f"选择 {number}" for number in range(1000)]},
    "5 passages": {"substrings_of": passages()},
}


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and milliseconds of this CPU."""
    started = time.thread_time()
    result = run()
    return result, 1e3 * (time.thread_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_folder(args.tokenizer)
    end, vocab_size = tokenizer.eos_token_id, -(-tokenizer.vocab_size // 128) * 128
    assert end is not None, "the tokenizer names its end-of-sequence token"
    compiler, took = timed(lambda: GrammarCompiler(tokenizer, vocab_size, [end]))
    print(f"{vocab_size} tokens, {args.rows} rows; the vocabulary, once: {took:.0f} ms")
    for name, values in FORMS.items():
        follow(compiler, name, values, args.rows, args.steps, vocab_size, end)


def follow(
    compiler: GrammarCompiler, name: str, values: dict[str, Any], rows: int, steps: int, vocab_size: int, end: int
) -> None:
    """Random sequences of one form, each step of all rows timed."""
    grammar, compiled = timed(lambda: compiler.compile(response_lark(StructuredOutputsParams(**values))))
    params = SamplingParams(structured_outputs=StructuredOutputsParams(**values))
    requests = [
        Request(f"{row}", "", [0], sampling_params=params, grammar=grammar, eos_token_ids=frozenset({end}))
        for row in range(rows)
    ]
    constraints, numbers, spent = Constraints(), np.random.default_rng(0), []
    for _ in range(steps):
        items = [ScheduledRequest(request, 1, [], request.num_tokens - 1, True) for request in requests]
        step, took = timed(partial(constraints.of_step, items, vocab_size))
        spent.append(took)
        for request, mask in zip(requests, step.masks, strict=True):
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            request.output_token_ids.append(int(numbers.choice(allowed)))
    median, most = statistics.median(spent), max(spent)
    print(f"{name:16} compiled in {compiled:6.1f} ms; a step {median:6.2f} ms, the slowest {most:6.2f} ms")


if __name__ == "__main__":
    main()
