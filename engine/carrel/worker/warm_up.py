"""Made-up steps of the kinds that come while serving, so that their kernels are compiled before the first request.

Kernels differ by the number of query rows, by whether a prefix is cached, by what the sampler is asked for, and by
where the prefills begin behind the decodes (addresses divisible by 16 or not). The tokens mean nothing.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

from carrel.params import PoolingParams, SamplingParams
from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.worker.step_limits import StepLimits

QUERY_LENS = (3, 16, 64, 256)  # one for each size of tile
NUM_DECODES = (0, 1, 4)
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 40},
    {"temperature": 1.0, "repetition_penalty": 1.1, "logprobs": 2},
    {"temperature": 1.0, "allowed_token_ids": [0, 1], "logit_bias": {1: 1.0}},
)


def chat_warm_ups(limits: StepLimits, block_size: int, num_blocks: int) -> list[list[ScheduledRequest]]:
    """A prompt beside some decodes, with a cached beginning and without, as far as the limits allow."""
    kinds = cycle(SAMPLING)
    steps = []
    for query_len in QUERY_LENS:
        for num_decodes in NUM_DECODES:
            for cached in (0, block_size):
                blocks = -(-(cached + query_len) // block_size)
                fits = cached + query_len <= limits.max_model_len and blocks <= num_blocks
                if fits and num_decodes < limits.max_num_seqs and num_decodes + query_len <= limits.max_tokens:
                    decodes = [_chat(f"{index}", 1, 1, [0], next(kinds)) for index in range(num_decodes)]
                    steps.append([*decodes, _chat("prompt", cached, query_len, list(range(blocks)), next(kinds))])
    return steps


def pooling_warm_ups(limits: StepLimits) -> list[list[ScheduledRequest]]:
    """Inputs of one length, and of another."""
    lengths = [length for length in QUERY_LENS if length <= limits.max_model_len]
    return [[_input(f"{index}", length) for index in range(3)] for length in lengths]


def _chat(name: str, start: int, count: int, block_table: list[int], params: dict[str, Any]) -> ScheduledRequest:
    request = Request(name, "", [0] * (start + count), sampling_params=SamplingParams(**params))
    return ScheduledRequest(request, count, block_table, start, samples=True)


def _input(name: str, length: int) -> ScheduledRequest:
    return ScheduledRequest(Request(name, "", [0] * length, pooling_params=PoolingParams()), length)
