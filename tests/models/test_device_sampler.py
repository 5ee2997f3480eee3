"""The device sampler, over the kernels' twins, against the CPU's: the same tokens, whatever stands beside them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from carrel.errors import StepError
from carrel.request import Request
from carrel.step import RequestResult, ScheduledRequest
from carrel.worker.device_sampler import DeviceSampler, sampler_for, torch_kernels
from carrel.worker.device_stream import DeviceStream
from carrel.worker.sampler import sample
from carrel.worker.step_sampler import HostSampler
from carrel.worker.token_table import TokenTable, occurrences
from driving import chat_request
from numpy.typing import NDArray
from torch import Tensor

VOCAB = 97
STREAM = DeviceStream(torch.device("cpu"))
PARAMS: list[dict[str, object]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 1e-9},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 5000},
    {"temperature": 0.0, "repetition_penalty": 1.4},
    {"temperature": 0.9, "presence_penalty": 1.0, "frequency_penalty": 0.3, "top_p": 0.95},
    {"temperature": 0.8, "min_tokens": 6, "stop_token_ids": [3, 4]},
    {"temperature": 1.0, "logprobs": 3, "repetition_penalty": 0.8},
    {"temperature": 0.0, "logprobs": 0, "min_tokens": 2},
]


def new_sampler(max_rows: int = 16) -> DeviceSampler:
    return DeviceSampler(STREAM, max_rows, torch_kernels())


def make_requests(params: list[dict[str, object]] = PARAMS) -> list[Request]:
    generator = random.Random(4)
    requests = []
    for row, values in enumerate(params):
        prompt = [generator.randrange(VOCAB) for _ in range(1 + row % 7)]
        request = chat_request(prompt, seed=row * 31 - 5, **{"max_tokens": 50, **values})
        request.eos_token_ids = frozenset({0, 1, 4000})
        requests.append(request)
    return requests


def items_of(requests: list[Request]) -> list[ScheduledRequest]:
    """The last token of each is computed, then one is drawn."""
    return [ScheduledRequest(request, 1, [], request.num_tokens - 1, True) for request in requests]


def logits_of(requests: list[Request], scale: float = 3.0) -> Tensor:
    """A function of the sequence so far, as a model's are."""
    rows = []
    for request in requests:
        tokens = request.prompt_token_ids + request.output_token_ids
        seed = hash((request.seed, *tokens)) % 2**31
        rows.append(torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * scale)
    return torch.stack(rows)


def step(sampler: DeviceSampler, requests: list[Request]) -> list[RequestResult]:
    """Draw one token for each and append it."""
    sampled = sampler.sample(logits_of(requests), items_of(requests))
    results = sampled.results()
    assert sampled.token_ids.tolist() == [result.token_ids[0] for result in results]
    for request, result in zip(requests, results, strict=True):
        request.output_token_ids += result.token_ids
    return results


def test_many_steps_of_many_rows_draw_the_tokens_of_the_cpu_sampler() -> None:
    requests, sampler = make_requests(), new_sampler()
    for _ in range(12):
        expected = sample(logits_of(requests), requests)
        results = step(sampler, requests)
        assert [result.token_ids[0] for result in results] == expected.token_ids
        for result, logprobs in zip(results, expected.logprobs, strict=True):
            assert (result.logprobs is None) == (logprobs is None)
            if result.logprobs is not None and logprobs is not None:
                assert result.logprobs[0].token_ids == logprobs.token_ids
                assert result.logprobs[0].ranks == logprobs.ranks
                assert result.logprobs[0].logprobs == pytest.approx(logprobs.logprobs, abs=1e-5)


def generate(order: list[list[int]], *, max_rows: int = 16) -> list[list[int]]:
    """Outputs after the steps of ``order``, each a list of requests by number."""
    requests, sampler = make_requests(), new_sampler(max_rows)
    for numbers in order:
        step(sampler, [requests[number] for number in numbers])
    return [request.output_token_ids for request in requests]


def test_alone_is_batched_is_shuffled_is_interrupted() -> None:
    everyone = list(range(len(PARAMS)))
    together = generate([everyone] * 8)
    assert generate([[number] for number in everyone for _ in range(8)], max_rows=2) == together
    shuffled = [random.Random(seed).sample(everyone, len(everyone)) for seed in range(8)]
    assert generate(shuffled) == together
    halves = [everyone[start::2] for _ in range(8) for start in (0, 1)]
    assert generate(halves, max_rows=6) == together, "rows of the token table go from hand to hand"


def test_nothing_is_sent_while_the_batch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, sampler = make_requests([{"temperature": 1.0}, {"presence_penalty": 1.0}]), new_sampler()
    step(sampler, requests)
    state = sampler._state
    assert state is not None
    sent: list[int] = []
    to_device = state._to_device

    def recorded(values: NDArray[np.int64]) -> Tensor:
        sent.append(values.size)
        return to_device(values)

    monkeypatch.setattr(state, "_to_device", recorded)
    step(sampler, requests)
    step(sampler, requests)
    assert sent == []
    step(sampler, requests[::-1])
    assert sent == [16]


def test_a_token_that_was_dropped_is_not_counted() -> None:
    """The step ran, its result was thrown away, the request samples the same position again."""
    requests, sampler = make_requests([{"temperature": 0.0, "frequency_penalty": 2.0}]), new_sampler()
    step(sampler, requests)
    first = step(sampler, requests)[0].token_ids
    requests[0].output_token_ids.pop()
    assert step(sampler, requests)[0].token_ids == first
    assert sampler._state is not None
    table = sampler._state.table
    slot = table.slot_of(requests[0], requests[0].num_tokens)
    assert np.array_equal(table.tensor[slot].numpy(), occurrences(requests[0], requests[0].num_tokens, VOCAB))


def test_a_row_that_is_not_finite_fails_alone() -> None:
    requests, sampler = make_requests(PARAMS), new_sampler()
    logits = logits_of(requests)
    expected = sample(logits, requests).token_ids
    logits[3, 7], logits[10, 0] = torch.nan, torch.inf
    sampled = sampler.sample(logits, items_of(requests))
    results = sampled.results()
    for row, result in enumerate(results):
        if row in (3, 10):
            assert isinstance(result.error, StepError)
            assert result.token_ids == []
            assert result.logprobs is None
        else:
            assert result.token_ids == [expected[row]]
    assert all(0 <= token < VOCAB for token in sampled.token_ids.tolist())


def test_released_rows_of_the_table_are_used_again() -> None:
    sampler = new_sampler(2)
    for _ in range(10):
        requests = make_requests([{"presence_penalty": 1.0}, {"repetition_penalty": 2.0}])
        step(sampler, requests)
        sampler.release([request.request_id for request in requests])
    assert sampler._state is not None
    assert sampler._state.table.tensor.shape == (4, VOCAB)
    assert sampler._state._packed == {}


def test_a_table_without_room_takes_rows_of_those_who_wait() -> None:
    table = TokenTable(STREAM, VOCAB, 4)
    waiting = make_requests([{"presence_penalty": 1.0}] * 9)
    for request in waiting:
        table.begin_step()
        table.slot_of(request, request.num_tokens)
    assert table.tensor.shape == (4, VOCAB)
    table.begin_step()
    slot = table.slot_of(waiting[0], waiting[0].num_tokens)
    assert np.array_equal(table.tensor[slot].numpy(), occurrences(waiting[0], waiting[0].num_tokens, VOCAB))


def test_frequencies_are_the_probabilities() -> None:
    """2,000 seeds: every frequency within five standard deviations."""
    draws = 2000
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0, 0.5]])
    requests = [chat_request([1], seed=seed, temperature=0.8) for seed in range(draws)]
    tokens = new_sampler(draws).sample(logits.expand(draws, -1), items_of(requests)).token_ids
    expected = (logits[0] / 0.8).softmax(-1)
    frequency = torch.bincount(tokens, minlength=5) / draws
    assert ((frequency - expected).abs() <= 5 * (expected * (1 - expected) / draws).sqrt()).all()


def test_a_cpu_keeps_its_own_sampler() -> None:
    assert isinstance(sampler_for(STREAM, 4), HostSampler)
