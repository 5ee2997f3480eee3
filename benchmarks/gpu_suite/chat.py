"""Speed of one chat model: batch 1, batch 256, prefill, time to first token, mixed requests, host time of a step."""

from __future__ import annotations

import statistics
import traceback
from collections.abc import Callable
from typing import Any

from carrel.host import EngineHost

from gpu_suite.engine_run import Run, opened, run
from gpu_suite.profile import profiled
from gpu_suite.section import Context
from gpu_suite.shapes import Shape, shape_of
from gpu_suite.step_clock import StepClock
from gpu_suite.workload import TINY_CHAT, ChatSizes, Requests

WITH_MIXED = ("Qwen2.5-0.5B", "Qwen3-0.6B")
TOKENS_A_STEP = 16_384  # max_num_batched_tokens: prompts of a batch in a few steps


def measure(context: Context, name: str) -> None:
    tiny = context.options.tiny
    shape, sizes = shape_of(name, tiny=tiny), TINY_CHAT if tiny else ChatSizes()
    options = {"max_num_seqs": sizes.batch, "max_num_batched_tokens": TOKENS_A_STEP}
    with opened(shape, context.options.device, **options) as host:
        ChatBench(context, host, shape, sizes).measure()


class ChatBench:
    """The measurements of one open host, the ones with targets first."""

    def __init__(self, context: Context, host: EngineHost, shape: Shape, sizes: ChatSizes) -> None:
        self.context, self.host, self.shape, self.sizes = context, host, shape, sizes
        self.requests = Requests(shape.name, shape.config["vocab_size"])

    def measure(self) -> None:
        plan = self.host.memory_plan
        self.context.facts(**{f"memory plan of {self.shape.name}": plan.describe()})
        parts = [self.single, self.batched, self.prefill, self.first_token]
        if self.shape.name in WITH_MIXED:
            parts.insert(2, self.mixed)
        for part in parts:
            if self.context.remaining < 5.0:
                self.context.note(f"{part.__name__} not measured: no time left")
            else:
                self._attempt(part)

    # -- one request

    def single(self) -> None:
        """Tokens a second after the first, of one request alone."""
        prompt, output = self.sizes.single
        self._run(1, prompt, max(2, output // 4))  # warms up
        with StepClock(self.host) as clock:
            rates = [_decode_rate(self._run(1, prompt, output)) for _ in range(self.sizes.repeats)]
        context_len = prompt + output / 2
        self._row(
            "batch 1 decode",
            statistics.median(rates),
            bytes_per_unit=self.shape.decode_bytes(1, context_len),
            flops_per_unit=self.shape.decode_flops(context_len),
            all=_rounded(rates),
        )
        self._host_time("batch 1", clock)
        self._profile("batch 1 decode", lambda: self._run(1, prompt, max(2, output // 8)))

    def first_token(self) -> None:
        """Milliseconds to the first token of one long prompt."""
        for length in self.sizes.long_prompts:
            self._run(1, length, 1)
            seconds = [self._run(1, length, 1).seconds for _ in range(self.sizes.repeats)]
            best = statistics.median(seconds)
            self._row(f"first token of {length}", 1e3 * best, "ms", all=_rounded([1e3 * value for value in seconds]))
            flops = self.shape.prefill_flops(length)
            self._row(f"prefill of one prompt of {length}", length / best, flops_per_unit=flops)

    # -- many requests

    def batched(self) -> None:
        """A batch end to end, and its decode alone while all of it decodes."""
        batch, (prompt, output) = self.sizes.batch, self.sizes.batched
        self._run(batch, prompt, max(2, output // 8))
        with StepClock(self.host) as clock:
            runs = [self._run(batch, prompt, output) for _ in range(max(1, self.sizes.repeats - 1))]
        whole = [result.num_output_tokens / result.seconds for result in runs]
        steady = [result.steady_rate for result in runs if result.steady_rate is not None]
        context_len = prompt + output / 2
        floor_bytes = self.shape.decode_bytes(batch, context_len)
        floor_flops = self.shape.decode_flops(context_len)
        prefill = prompt * self.shape.prefill_flops(prompt) / output
        label = f"batch {self.sizes.batch}"
        floors: dict[str, Any] = {"bytes_per_unit": floor_bytes, "flops_per_unit": floor_flops + prefill}
        self._row(f"{label} end to end", max(whole), **floors, all=_rounded(whole))
        floors["flops_per_unit"] = floor_flops
        if steady:
            self._row(f"{label} decode", max(steady), **floors, all=_rounded(steady))
        self._host_time(label, clock)
        self._profile(f"{label} end to end", lambda: self._run(batch, prompt, max(2, output // 8)))

    def mixed(self) -> None:
        """nano-vllm's bench: prompts and outputs of uniformly random lengths, all submitted at once, sampled."""
        low, high = self.sizes.mixed
        lengths = self.requests.mixed(self.sizes.batch, low, high)
        run(self.host, [self.requests.chat(request.num_prompt_tokens, 4, temperature=0.6) for request in lengths])
        requests = self.requests.mixed(self.sizes.batch, low, high, temperature=0.6)
        with StepClock(self.host) as clock:
            result = run(self.host, requests)
        label = f"{self.sizes.batch} mixed requests"
        self._row(
            label,
            result.num_output_tokens / result.seconds,
            prompt_tokens=result.num_prompt_tokens,
            output_tokens=result.num_output_tokens,
            preemptions=self.host.loop.stats().scheduler.num_preemptions,
        )
        self._host_time(label, clock)

    def prefill(self) -> None:
        """Prompt tokens a second of many prompts at once."""
        count, length = self.sizes.prefill
        self._run(count, length, 1)
        runs = [self._run(count, length, 1) for _ in range(self.sizes.repeats)]
        rates = [result.num_prompt_tokens / result.seconds for result in runs]
        flops = self.shape.prefill_flops(length)
        self._row("prefill", max(rates), flops_per_unit=flops, all=_rounded(rates), prompts=count, length=length)
        self._profile("prefill", lambda: self._run(count, length, 1))

    # -- helpers

    def _attempt(self, part: Callable[[], None]) -> None:
        """A part that fails ends no other, as long as the engine lives."""
        try:
            part()
        except Exception:
            if not self.host.is_alive:
                raise
            self.context.check(f"{part.__name__} runs", passed=False, error=traceback.format_exc()[-1500:])

    def _run(self, count: int, prompt: int, output: int) -> Run:
        return run(self.host, [self.requests.chat(prompt, output) for _ in range(count)])

    def _row(self, name: str, value: float, unit: str = "tokens/s", **detail: Any) -> None:
        self.context.row(f"{self.shape.name} {name}", value, unit, **detail)

    def _host_time(self, label: str, clock: StepClock) -> None:
        parts = clock.microseconds()
        self._row(f"{label} host time a step", parts["host"], "µs", steps=clock.num_steps, **parts)

    def _profile(self, label: str, work: Callable[[], Run]) -> None:
        if self.context.options.profile:
            profiled(self.context, f"{self.shape.name} {label}", work)


def _decode_rate(result: Run) -> float:
    """Tokens a second between the first and the last token of one request."""
    return (result.num_output_tokens - 1) / (result.seconds - result.last_first_token)


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]
