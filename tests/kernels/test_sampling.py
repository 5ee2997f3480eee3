"""Sampling without a sort = its twin: tokens, each row by itself, rows that are not finite, counted tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from carrel.kernels import reference_sampling as reference
from carrel.kernels import sampling_rows as columns
from carrel.kernels.sampling import sample_tokens
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.worker.device_sampler import DeviceSampler, triton_kernels
from carrel.worker.device_stream import DeviceStream
from carrel.worker.sampler import sample
from sampling_cases import FILTERS, make_logits, make_rows, make_table, no_table, small_buffers
from torch import Tensor

DRAW, FILTER, TABLE = SamplingMode.DRAW, SamplingMode.DRAW | SamplingMode.FILTERS, SamplingMode.TABLE


def both(
    logits: Tensor, params: list[dict[str, Any]], mode: SamplingMode, table: Tensor | None = None
) -> tuple[SamplingBuffers, SamplingBuffers, Tensor, Tensor]:
    """Buffers and tables of kernel and twin after one step."""
    device = logits.device
    rows = [make_rows(params, device) for _ in range(2)]
    tables = [no_table(device) if table is None else table.clone() for _ in range(2)]
    buffers = [small_buffers(len(logits), logits.shape[1], device) for _ in range(2)]
    sample_tokens(logits, rows[0], tables[0], buffers[0], mode)
    reference.sample_tokens(logits, rows[1], tables[1], buffers[1], mode)
    assert torch.equal(rows[0].packed, rows[1].packed), "positions move on"
    return buffers[0], buffers[1], tables[0], tables[1]


@pytest.mark.parametrize("vocab_size", [7, 1000])
def test_filtered_tokens_equal_the_twins(vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
    logits = make_logits(len(FILTERS), vocab_size).to(device, dtype)
    kernel, twin, _, _ = both(logits, FILTERS, FILTER)
    assert kernel.results.tolist() == twin.results.tolist()
    assert torch.equal(kernel.token_ids, kernel.results)


@pytest.mark.parametrize("vocab_size", [1, 2048, 5003])
def test_a_plain_draw_equals_the_twins(vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
    logits = make_logits(12, vocab_size, scale=2.0).to(device, dtype)
    params = [{"temperature": 0.5 + 0.1 * (row % 7), "position": 2**33 + row} for row in range(12)]
    kernel, twin, _, _ = both(logits, params, DRAW)
    assert kernel.results.tolist() == twin.results.tolist()


def test_greedy_takes_the_first_of_equal_logits(dtype: torch.dtype, device: torch.device) -> None:
    logits = make_logits(3, 5003).to(device, dtype)
    logits[0] = 0.0
    logits[1, [4000, 4999, 17]] = 30.0
    kernel, twin, _, _ = both(logits, [{"temperature": 0.0}] * 3, SamplingMode.GREEDY)
    assert kernel.results.tolist() == twin.results.tolist()
    assert kernel.results.tolist()[:2] == [0, 17]


def test_rows_that_are_not_finite_fail_alone(dtype: torch.dtype, device: torch.device) -> None:
    logits = make_logits(10, 600).to(device, dtype)
    good = logits.clone()
    logits[0, 3] = torch.nan
    logits[2, 599] = torch.inf
    logits[4] = -torch.inf
    logits[6] = torch.nan
    logits[8, 5] = -torch.inf  # a single one is a masked token, not an error
    params = [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"top_p": 0.5, "temperature": 0.3}] * 2
    kernel, twin, _, _ = both(logits, params, FILTER)
    untouched, _, _, _ = both(good, params, FILTER)
    results = kernel.results.tolist()
    assert results == twin.results.tolist()
    assert [row for row, token in enumerate(results) if token < 0] == [0, 2, 4, 6]
    assert [results[row] for row in (1, 3, 5, 7, 9)] == [untouched.results.tolist()[row] for row in (1, 3, 5, 7, 9)]
    assert kernel.token_ids.tolist() == [max(token, 0) for token in results], "the next step reads a token"


def test_a_row_alone_draws_what_it_draws_in_a_batch(device: torch.device) -> None:
    some = FILTERS[::4]
    logits = make_logits(len(some), 1500).to(device)
    batch, _, _, _ = both(logits, some, FILTER)
    for row, params in enumerate(some):
        alone = small_buffers(1, 1500, device)
        rows = make_rows([{**params, "state": 7919 * (row + 1), "position": row + 1}], device)
        sample_tokens(logits[row : row + 1], rows, no_table(device), alone, FILTER)
        assert alone.results[0] == batch.results[row], params


def test_penalties_change_tokens_and_tokens_are_counted(dtype: torch.dtype, device: torch.device) -> None:
    params: list[dict[str, Any]] = [
        {"temperature": 0.0, "repetition": 3.0, "slot": 2},
        {"temperature": 0.0, "slot": -1},
        {"presence": 1.5, "frequency": 0.5, "slot": 0, "top_p": 0.9},
        {"min_length": 100, "slot": 1, "top_k": 9},
    ]
    logits = make_logits(4, 700).to(device, dtype)
    logits[:, 3] += 20.0  # it ends the text
    table = make_table(3, 700, device)
    table[1, 40] = columns.MAX_OCCURRENCES * columns.OCCURS
    kernel, twin, counted, counted_by_twin = both(logits, params, FILTER | TABLE, table)
    assert kernel.results.tolist() == twin.results.tolist()
    assert torch.equal(counted, counted_by_twin)
    assert int((counted != table).sum()) == 3
    assert kernel.results[1] == 3
    assert kernel.results[3] >= 8


def test_counts_stay_inside_their_type(device: torch.device) -> None:
    table = torch.full((1, 4), columns.MAX_OCCURRENCES * columns.OCCURS + columns.IN_PROMPT, dtype=torch.int16)
    logits = torch.tensor([[0.0, 9.0, 0.0, 0.0]], device=device)
    _, _, counted, _ = both(logits, [{"temperature": 0.0, "slot": 0}], TABLE, table.to(device))
    assert torch.equal(counted.cpu(), table)


def test_the_device_sampler_over_the_kernels_draws_as_the_cpu_sampler(device: torch.device) -> None:
    """Requests in, tokens out, over three steps: the whole way that a GPU takes."""
    params: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.8, "logprobs": 2},
        {"temperature": 1.2, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
        {"temperature": 1.0, "min_tokens": 2, "stop_token_ids": [5], "top_p": 0.9},
    ]
    requests = [
        Request(f"r{row}", "model", [row, 7, row], sampling_params=SamplingParams(**values), seed=row - 2)
        for row, values in enumerate(params)
    ]
    sampler = DeviceSampler(DeviceStream(device), 4, triton_kernels())
    for step in range(3):
        logits = make_logits(4, 700, seed=step).to(device)
        logits[:, 5] += 9.0
        expected = sample(logits, requests)
        items = [ScheduledRequest(request, 1, [], request.num_tokens - 1, True) for request in requests]
        sampled = sampler.sample(logits, items)
        DeviceStream(device).join()
        results = sampled.results()
        assert [result.token_ids[0] for result in results] == expected.token_ids
        logprobs, twin = results[1].logprobs, expected.logprobs[1]
        assert logprobs is not None
        assert twin is not None
        assert logprobs[0].ranks == twin.ranks
        assert logprobs[0].logprobs == pytest.approx(twin.logprobs, abs=1e-4)
        for request, token in zip(requests, expected.token_ids, strict=True):
            request.output_token_ids.append(token)
