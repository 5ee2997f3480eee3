"""Made-up work as large as a step can be, to compile kernels and to measure memory. The tokens mean nothing."""

from __future__ import annotations

from carrel.params import MAX_LOGPROBS, PoolingParams, SamplingParams
from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.worker.step_limits import StepLimits


def chat_steps(limits: StepLimits, block_size: int) -> list[list[ScheduledRequest]]:
    """Whole prompts: few that are as long as they can be, and as many as can be, all of them sampling.

    Each asks for the log probabilities of its prompt too, and is drawn under a mask.
    """
    return [_chats(lengths, block_size) for lengths in _lengths(limits)]


def pooling_steps(limits: StepLimits) -> list[list[ScheduledRequest]]:
    """Inputs to pool: few that are as long as they can be, and as many as can be. All want spans."""
    return [[_pooled(index, length) for index, length in enumerate(lengths)] for lengths in _lengths(limits)]


def _lengths(limits: StepLimits) -> list[list[int]]:
    tokens = limits.max_tokens
    longest = min(limits.max_model_len, tokens)
    few = [longest] * min(tokens // longest, limits.max_num_seqs)
    count = min(limits.max_num_seqs, tokens)
    return [few, [min(tokens // count, longest)] * count]


def num_blocks(limits: StepLimits, block_size: int) -> int:
    """KV blocks that :func:`chat_steps` uses."""
    return max(sum(-(-length // block_size) for length in lengths) for lengths in _lengths(limits))


def _chats(lengths: list[int], block_size: int) -> list[ScheduledRequest]:
    items, first = [], 0
    for index, length in enumerate(lengths):
        blocks = -(-length // block_size)
        params = SamplingParams(
            temperature=1.0, top_p=0.9, top_k=40, prompt_logprobs=MAX_LOGPROBS, allowed_token_ids=[0]
        )
        request = Request(f"{index}", "", [0] * length, sampling_params=params)
        items.append(_scheduled(request, list(range(first, first + blocks)), num_prompt_logits=length - 1))
        first += blocks
    return items


def _pooled(index: int, length: int) -> ScheduledRequest:
    request = Request(f"{index}", "", [0] * length, pooling_params=PoolingParams(), wants_spans=True)
    return _scheduled(request, [])


def _scheduled(request: Request, block_table: list[int], *, num_prompt_logits: int = 0) -> ScheduledRequest:
    return ScheduledRequest(
        request,
        request.num_tokens,
        block_table,
        samples=not request.is_pooling,
        num_prompt_logits=num_prompt_logits,
    )
