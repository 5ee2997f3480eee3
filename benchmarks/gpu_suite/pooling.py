"""Speed of embedding and rerank: from token ids, and with the tokenizer in front of it."""

from __future__ import annotations

import random
from typing import Any

from carrel.host import EngineHost

from gpu_suite.engine_run import Run, opened, run
from gpu_suite.profile import profiled
from gpu_suite.section import Context
from gpu_suite.shapes import Shape, shape_of
from gpu_suite.step_clock import StepClock
from gpu_suite.text import TextInputs, trained_tokenizer
from gpu_suite.workload import TINY_POOLING, PoolingSizes, Requests

TOKENS_A_STEP = 65_536  # max_num_batched_tokens: large products, and one launch of everything for many inputs
ROUNDS = 3


def measure(context: Context, name: str) -> None:
    tiny = context.options.tiny
    shape, sizes = shape_of(name, tiny=tiny), TINY_POOLING if tiny else PoolingSizes()
    with opened(shape, context.options.device, max_num_batched_tokens=TOKENS_A_STEP) as host:
        bench = PoolingBench(context, host, shape, sizes)
        bench.token_ids()
        if not bench.is_reranker:
            bench.mixed()
        bench.text()


class PoolingBench:
    """The measurements of one open host. An embedder's figures are tokens, a reranker's are pairs, a second."""

    def __init__(self, context: Context, host: EngineHost, shape: Shape, sizes: PoolingSizes) -> None:
        self.context, self.host, self.shape, self.sizes = context, host, shape, sizes
        self.requests = Requests(shape.name, shape.config["vocab_size"])
        self.is_reranker = shape.config["architectures"][0].endswith("SequenceClassification")
        self.unit = "pairs/s" if self.is_reranker else "tokens/s"

    def token_ids(self) -> None:
        """Inputs of one length, as token ids."""
        count, length = self.sizes.inputs, self.sizes.length
        self._run([length] * max(1, count // 8))
        with StepClock(self.host) as clock:
            runs = [self._run([length] * count) for _ in range(ROUNDS)]
        self._row("token ids", runs, self.shape.prefill_flops(length), length=length)
        parts = clock.microseconds()
        self.context.row(f"{self.shape.name} host time a step", parts["host"], "µs", steps=clock.num_steps, **parts)
        if self.context.options.profile:
            profiled(self.context, f"{self.shape.name} token ids", lambda: self._run([length] * (count // 8)))

    def mixed(self) -> None:
        """Inputs of many lengths, as texts have them."""
        generator = random.Random(0)
        lengths = [generator.randint(*self.sizes.mixed) for _ in range(self.sizes.inputs)]
        self._run(lengths[: max(1, len(lengths) // 8)])
        mean = round(sum(lengths) / len(lengths))
        runs = [self._run(lengths) for _ in range(ROUNDS)]
        self._row("token ids, mixed lengths", runs, self.shape.prefill_flops(mean), bounds=self.sizes.mixed)

    def text(self) -> None:
        """The same from text: tokenizing, on all cores, is on the clock."""
        tokenizer = trained_tokenizer()
        if tokenizer is None:
            self.context.note("text in: not measured, the package tokenizers is not there")
            return
        count, length = self.sizes.inputs, self.sizes.length
        inputs = TextInputs(tokenizer, self.requests, pairs=self.is_reranker)
        texts = inputs.texts(count, length)
        run(self.host, inputs.requests(texts[: max(1, count // 8)], length))
        results = [inputs.timed(self.host, texts, length) for _ in range(ROUNDS)]
        units = [result.num_prompt_tokens / (length if self.is_reranker else 1) for result, _ in results]
        rates = [unit / seconds for unit, (_, seconds) in zip(units, results, strict=True)]
        flops = self.shape.prefill_flops(length) * (length if self.is_reranker else 1)
        tokenizing = inputs.tokenizing_rate(texts, length)
        self.context.row(
            f"{self.shape.name} text in",
            max(rates),
            self.unit,
            flops_per_unit=flops,
            tokenized_tokens_per_second=round(tokenizing),
            tokenizer="a small BPE trained on the fly",
        )

    def _run(self, lengths: list[int]) -> Run:
        return run(self.host, [self.requests.pooling(length) for length in lengths])

    def _row(self, name: str, runs: list[Run], flops_per_token: float, **detail: Any) -> None:
        tokens = self.sizes.length if self.is_reranker else 1  # of one unit
        rates = [result.num_prompt_tokens / tokens / result.seconds for result in runs]
        rounded = [round(rate, 1) for rate in rates]
        self.context.row(
            f"{self.shape.name} {name}", max(rates), self.unit, flops_per_unit=flops_per_token * tokens, all=rounded,
            **detail,
        )  # fmt: skip
