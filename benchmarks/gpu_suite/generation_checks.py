"""Generation on the device against the same generation by other means: eager, without overlap, in small steps, on the
CPU in fp32.

Greedy tokens must be equal up to ties: where a run leaves its reference for the first time, its token must be one that
the reference finds about as likely as its own. What follows is another text and is not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from carrel.host import EngineHost
from carrel.step import TokenLogprobs

from gpu_suite.engine_run import Run, run
from gpu_suite.reference_engine import open_small, reference_of
from gpu_suite.section import Context
from gpu_suite.shapes import Shape
from gpu_suite.small_shapes import chat_shapes
from gpu_suite.workload import Requests

MARGIN = {"bfloat16": 0.1, "float32": 0.01}  # of log probability, between tokens that may trade places
TOP = 20  # tokens whose log probability the reference gives
SAMPLED_TOKENS = 8  # of each request, that are compared where tokens are drawn
SAMPLED_SHARE = 0.9  # of those that must be equal: rounding tips a draw now and then
VARIANTS: dict[str, dict[str, Any]] = {
    "eager": {"enforce_eager": True},
    "without overlap": {"overlap_scheduling": False},
    "in small steps": {"max_num_batched_tokens": 64},
}
DRAWN: dict[str, dict[str, Any]] = {
    "temperature, top_p, top_k": {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
    "temperature": {"temperature": 1.0},
    "a mask and biases": {"allowed_token_ids": list(range(5, 400)), "logit_bias": {7: 2.0, 9: -100.0}},
    "penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.2},
}


@dataclass(frozen=True)
class Outcome:
    """How one run stands to its reference."""

    num_requests: int
    num_equal: int  # requests whose tokens are all equal
    worst_margin: float  # of the first differences; 0 if there are none

    def passes(self, margin: float) -> bool:
        return self.worst_margin <= margin


def check(context: Context, name: str, dtype: str) -> None:
    device, tiny = context.options.device, context.options.tiny
    shape, tokens = chat_shapes(tiny=tiny)[name], 8 if tiny else 32
    prompts = make_prompts(shape, tiny=tiny)
    with open_small(shape, device, dtype=dtype) as host:
        tested = generate(host, prompts, tokens)
        again = generate(host, prompts, tokens)
        drawn = {what: generate(host, prompts, SAMPLED_TOKENS, **params) for what, params in DRAWN.items()}
        with reference_of(host, shape) as reference:
            expected = generate(reference, prompts, tokens, logprobs=TOP)
            _verdict(context, "device = CPU in fp32", tested, expected, dtype)
            for what, result in drawn.items():
                twin = generate(reference, prompts, SAMPLED_TOKENS, **DRAWN[what])
                _drawn_verdict(context, f"{what} = CPU in fp32", result, twin, dtype)
        _verdict(context, "from the prefix cache", again, expected, dtype)
    for what, options in VARIANTS.items():
        if context.remaining < 5.0:
            context.note(f"{what}: not checked, no time left")
            continue
        with open_small(shape, device, dtype=dtype, **_possible(options, device)) as host:
            _verdict(context, what, generate(host, prompts, tokens), expected, dtype)


def _possible(options: dict[str, Any], device: str) -> dict[str, Any]:
    """On a CPU nothing overlaps, and asking for it is refused either way it is meant."""
    return options if device.startswith("cuda") else {key: value for key, value in options.items() if value is not True}


def make_prompts(shape: Shape, *, tiny: bool) -> list[list[int]]:
    """Short ones, long ones, around block borders, and some with a common beginning."""
    requests = Requests(shape.name, shape.config["vocab_size"])
    lengths = (1, 5, 16, 17, 40) if tiny else (1, 2, 5, 15, 16, 17, 31, 33, 64, 100, 129, 300, 511, 700)
    common = requests.prompt(35 if tiny else 150)
    tails = (1, 6) if tiny else (1, 7, 16, 90)
    return [requests.prompt(length) for length in lengths] + [common + requests.prompt(length) for length in tails]


def generate(host: EngineHost, prompts: list[list[int]], tokens: int, **params: Any) -> Run:
    """``tokens`` tokens for every prompt, all at once; ids and seeds are the same in every call."""
    (model,) = host.models
    requests = Requests(model, 2)
    return run(host, [requests.chat(0, tokens, prompt=prompt, **params) for prompt in prompts])


def outcome(tested: Run, expected: Run) -> Outcome:
    """``expected`` has log probabilities."""
    ours, theirs = list(tested.token_ids.values()), list(expected.token_ids.values())
    likely = [_by_token(expected.logprobs[request.request_id]) for request in expected.requests]
    worst, equal = 0.0, 0
    for row, (made, wanted) in enumerate(zip(ours, theirs, strict=True)):
        if made == wanted:
            equal += 1
            continue
        place = next((i for i, pair in enumerate(zip(made, wanted, strict=False)) if pair[0] != pair[1]), None)
        if place is None:  # one of them stopped early
            worst = float("inf")
            continue
        known = likely[row][place]
        worst = max(worst, known[wanted[place]] - known.get(made[place], -float("inf")))
    return Outcome(len(theirs), equal, worst)


def _by_token(positions: list[TokenLogprobs]) -> list[dict[int, float]]:
    return [dict(zip(each.token_ids, each.logprobs, strict=True)) for each in positions]


def _verdict(context: Context, name: str, tested: Run, expected: Run, dtype: str) -> None:
    found = outcome(tested, expected)
    detail = {"equal": f"{found.num_equal} of {found.num_requests}", "worst_margin": round(found.worst_margin, 4)}
    context.check(name, found.passes(MARGIN[dtype]), **detail, allowed=MARGIN[dtype])


def _drawn_verdict(context: Context, name: str, tested: Run, expected: Run, dtype: str) -> None:
    """In fp32 nearly all tokens are equal; in bf16 a draw often tips, and then only the first token is compared."""
    ours, theirs = tested.token_ids.values(), expected.token_ids.values()
    count = SAMPLED_TOKENS if dtype == "float32" else 1
    pairs = [
        pair
        for made, wanted in zip(ours, theirs, strict=True)
        for pair in zip(made[:count], wanted[:count], strict=True)
    ]
    share = sum(a == b for a, b in pairs) / len(pairs)
    least = SAMPLED_SHARE if dtype == "float32" else 0.3
    context.check(name, share >= least, equal_share=round(share, 3), allowed=least)
