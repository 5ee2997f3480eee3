"""Masks and biases: the rules, and both samplers under them, whatever stands beside a constrained row."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from carrel.errors import InvalidParamsError, StepError
from carrel.grammar import Bitmask
from carrel.request import Request
from carrel.step import RequestResult, ScheduledRequest
from carrel.worker.constraints import Constraints, full_mask, mask_of
from carrel.worker.device_sampler import DeviceSampler, torch_kernels
from carrel.worker.device_stream import DeviceStream
from carrel.worker.step_sampler import HostSampler
from driving import chat_request
from torch import Tensor

VOCAB = 97
EOS = 1
PARAMS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 1.0, "logit_bias": {5: 100.0}},
    {"temperature": 1.0, "logit_bias": dict.fromkeys(range(40), -100.0), "logprobs": 4},
    {"temperature": 0.0, "logit_bias": {7: 3.5, 8: -2.0}, "repetition_penalty": 1.3},
    {"temperature": 0.9, "allowed_token_ids": [3, 4, 90, 96], "top_p": 0.9, "logprobs": 2},
    {"temperature": 0.0, "allowed_token_ids": [33]},
    {"temperature": 1.0, "allowed_token_ids": [EOS, 3, 50], "min_tokens": 4},
    {"temperature": 1.0, "bad_words": ["x"], "top_k": 20},
    {"temperature": 0.0, "bad_words": ["x"], "min_tokens": 3},
    {"temperature": 1.0, "grammar": True, "logprobs": 3},
    {"temperature": 0.0, "grammar": True},
    {"temperature": 0.7, "grammar": True, "min_tokens": 5, "presence_penalty": 1.0, "min_p": 0.05},
    {"temperature": 1.0, "grammar": True, "allowed_token_ids": list(range(60)), "logit_bias": {2: 50.0}},
    {"temperature": 0.0, "min_tokens": 3, "stop_token_ids": [9]},
]


class Rising:
    """Implements ``Grammar`` and ``Matcher``: every token is larger than the one before; above 80 it may end."""

    def __init__(self, fails_at: int = 1000) -> None:
        self.fails_at = fails_at
        self.last = 1
        self.num_matchers = 0
        self.num_tokens = 0

    def matcher(self) -> Rising:
        self.num_matchers += 1
        return Rising(self.fails_at)

    def consume(self, token_ids: Sequence[int]) -> None:
        for token in token_ids:
            assert token == EOS or token > self.last
            self.last = max(token, self.last)
            self.num_tokens += 1

    def fill_bitmask(self, mask: Bitmask) -> None:
        if self.num_tokens >= self.fails_at:
            raise InvalidParamsError("too much", param="structured_outputs")
        ends = [EOS] if self.last > 80 else []
        mask[:] = mask_of([*ends, *range(self.last + 1, min(self.last + 30, VOCAB))] or [EOS], VOCAB)


def make_requests(params: Sequence[dict[str, Any]] = PARAMS) -> list[Request]:
    numbers = random.Random(4)
    requests = []
    for row, values in enumerate(params):
        values = dict(values)
        grammar = Rising() if values.pop("grammar", False) else None
        prompt = [numbers.randrange(VOCAB) for _ in range(1 + row % 7)]
        request = chat_request(prompt, f"r{row}", seed=row * 31 - 5, **{"max_tokens": 50, **values})
        request.eos_token_ids = request.end_token_ids = frozenset({EOS, 4000})
        request.end_token_ids |= set(values.get("stop_token_ids", ()))
        request.grammar = grammar
        if "bad_words" in values:
            request.bad_words_token_ids = ((60,), (11, 12), (13, 14, 15))
        requests.append(request)
    return requests


def items_of(requests: Sequence[Request]) -> list[ScheduledRequest]:
    return [ScheduledRequest(request, 1, [], request.num_tokens - 1, True) for request in requests]


def logits_of(requests: Sequence[Request], scale: float = 3.0) -> Tensor:
    """A function of the sequence so far, as a model's are."""
    rows = []
    for request in requests:
        seed = hash((request.seed, *request.prompt_token_ids, *request.output_token_ids)) % 2**31
        rows.append(torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * scale)
    return torch.stack(rows)


def device_sampler() -> DeviceSampler:
    return DeviceSampler(DeviceStream(torch.device("cpu")), 2 * len(PARAMS), torch_kernels())


def step(sampler: HostSampler | DeviceSampler, requests: Sequence[Request]) -> list[RequestResult]:
    results = sampler.sample(logits_of(requests), items_of(requests)).results()
    for request, result in zip(requests, results, strict=True):
        request.output_token_ids += result.token_ids
    return results


def test_both_samplers_draw_the_same_and_say_the_same_of_it() -> None:
    ours, twins, device, host = make_requests(), make_requests(), device_sampler(), HostSampler()
    for _ in range(12):
        raw = logits_of(ours).log_softmax(-1)
        for request, row, result, twin in zip(ours, raw, step(device, ours), step(host, twins), strict=True):
            assert result.token_ids == twin.token_ids, request.request_id
            assert (result.logprobs is None) == (twin.logprobs is None)
            if result.logprobs and twin.logprobs:
                found, expected = result.logprobs[0], twin.logprobs[0]
                assert (found.token_ids, found.ranks) == (expected.token_ids, expected.ranks)
                assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
                assert all(map(math.isfinite, found.logprobs))
                assert found.logprobs == pytest.approx(row[found.token_ids].tolist(), abs=1e-5), "the model's own"


@pytest.mark.parametrize("make", [device_sampler, HostSampler])
def test_every_row_keeps_its_rules(make: Any) -> None:
    requests, sampler = make_requests(), make()
    for _ in range(12):
        step(sampler, requests)
    out = [request.output_token_ids for request in requests]
    assert out[1] == [5] * 12
    assert all(token >= 40 for token in out[2])
    assert set(out[4]) <= {3, 4, 90, 96} and out[5] == [33] * 12
    assert set(out[6]) <= {EOS, 3, 50} and EOS not in out[6][:4] and EOS in out[6]
    for row in (7, 8):
        assert 60 not in out[row]
        pairs = list(zip(out[row], out[row][1:], strict=False))
        assert (11, 12) not in pairs and not any(pair == (14, 15) and before == 13 for before, pair in
                                                 zip(out[row], pairs[1:], strict=False))  # fmt: skip
    for row in (9, 10, 11, 12):
        text = [token for token in out[row] if token != EOS]
        assert text == sorted(set(text))
    assert EOS not in out[11][:3], "min_tokens, as long as something else is left"


def generate(order: Sequence[Sequence[int]], make: Any, *, drop: bool = False) -> list[list[int]]:
    """Outputs after the steps of ``order``, each a list of requests by number; ``drop``: forget all in between."""
    requests, sampler = make_requests(), make()
    for numbers in order:
        step(sampler, [requests[number] for number in numbers])
        if drop:
            sampler.release([request.request_id for request in requests])
    return [request.output_token_ids for request in requests]


@pytest.mark.parametrize("make", [device_sampler, HostSampler])
def test_alone_is_batched_is_shuffled_is_made_anew(make: Any) -> None:
    everyone = list(range(len(PARAMS)))
    together = generate([everyone] * 8, make)
    assert generate([[number] for number in everyone for _ in range(8)], make) == together
    assert generate([random.Random(seed).sample(everyone, len(everyone)) for seed in range(8)], make) == together
    assert generate([everyone] * 8, make, drop=True) == together


@pytest.mark.parametrize("make", [device_sampler, HostSampler])
def test_a_grammar_that_fails_ends_its_request_alone(make: Any) -> None:
    requests, sampler, twins = make_requests(), make(), make_requests()
    requests[9].grammar = Rising(fails_at=2)
    others = make()
    for number in range(4):
        results, expected = step(sampler, requests), step(others, twins)
        for row, (result, twin) in enumerate(zip(results, expected, strict=True)):
            if row == 9 and number >= 2:
                assert isinstance(result.error, InvalidParamsError) and not result.token_ids and not result.logprobs
            else:
                assert result.token_ids == twin.token_ids


@pytest.mark.parametrize("make", [device_sampler, HostSampler])
def test_a_row_that_is_not_finite_fails_under_a_mask_too(make: Any) -> None:
    requests = make_requests()
    logits = logits_of(requests)
    logits[4, 7], logits[5, 60], logits[9, 0] = torch.nan, torch.inf, torch.nan
    logits[6, [3, 50]] = -torch.inf  # all that its rules leave in its first step
    results = make().sample(logits, items_of(requests)).results()
    assert {row for row, result in enumerate(results) if isinstance(result.error, StepError)} == {4, 5, 6, 9}


def mask_for(request: Request) -> list[int] | None:
    constraints = Constraints().of_step(items_of([request]), VOCAB)
    assert constraints is not None
    if not len(constraints.masks):
        return None
    bits = np.unpackbits(constraints.masks[0].view(np.uint8), bitorder="little")[:VOCAB]
    return [int(token) for token in np.flatnonzero(bits)]


def test_something_is_always_left() -> None:
    """The grammar first, then allowed ids, bad words, min_tokens."""
    request = make_requests([{"grammar": True, "allowed_token_ids": [0], "min_tokens": 3}])[0]
    assert mask_for(request) == list(range(2, 31)), "no allowed id has the form: the form stays"
    request = make_requests([{"allowed_token_ids": [60], "bad_words": ["x"]}])[0]
    assert mask_for(request) == [60]
    request = make_requests([{"allowed_token_ids": [EOS], "min_tokens": 3}])[0]
    assert mask_for(request) == [EOS]
    request = make_requests([{"allowed_token_ids": [EOS, 2], "min_tokens": 3}])[0]
    assert mask_for(request) == [2]
    request = make_requests([{"logit_bias": {3: 1.0}}])[0]
    assert mask_for(request) is None, "a bias bars nothing"
    request = make_requests([{"bad_words": ["x"]}])[0]
    request.output_token_ids = [13, 14]
    assert mask_for(request) == [token for token in range(VOCAB) if token not in (60, 15)]


def test_many_bad_words() -> None:
    """Found by their last tokens; the same as when each is looked at."""
    numbers = random.Random(1)
    for _ in range(40):
        request = make_requests([{"bad_words": ["x"]}])[0]
        words = [tuple(numbers.randrange(8) for _ in range(numbers.randint(1, 4))) for _ in range(30)]
        request.bad_words_token_ids = (*words, (3, VOCAB + 5), (VOCAB + 5,))
        request.output_token_ids = [numbers.randrange(8) for _ in range(numbers.randrange(6))]
        output = request.output_token_ids
        ended = {word[-1] for word in words if tuple([-1, *output, word[-1]][-len(word) :]) == word}
        assert mask_for(request) == [token for token in range(VOCAB) if token not in ended]


def test_masks() -> None:
    assert full_mask(33).tolist() == [-1, -1]
    assert mask_of([31, 32, 63], 70).view(np.uint32).tolist() == [1 << 31, 1 | 1 << 31, 0]


def test_matchers_are_made_once_and_dropped() -> None:
    request = make_requests([{"grammar": True}])[0]
    constraints = Constraints()
    for _ in range(5):
        constraints.of_step(items_of([request]), VOCAB)
        request.output_token_ids.append(10 + len(request.output_token_ids))
    assert isinstance(request.grammar, Rising) and request.grammar.num_matchers == 1
    constraints.release([request.request_id])
    assert not constraints._kept
    for number in range(500):  # rows that come once more after their release, and never again
        other = make_requests([{"logit_bias": {1: 1.0}}])[0]
        constraints.of_step(items_of([other]), VOCAB)
        assert len(constraints._kept) <= 70, number


def test_who_runs_ahead() -> None:
    rows = items_of(make_requests())
    free = [item for item in rows if not item.request.reads_output]
    assert len(free) == 8
    for sampler in (device_sampler(), HostSampler()):
        assert not sampler.runs_ahead(rows)
    assert device_sampler().runs_ahead(free)
