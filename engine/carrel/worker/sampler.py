"""From logits to tokens, a whole batch at once, in fp32.

A pure function of (logits, sampling parameters, tokens so far, seed, position): no generator, no state, so that
batching and preemption change nothing. Order: bias and masks (``constraints``) → min_tokens mask → penalties →
temperature → min_p → top_k → top_p → draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import TokenLogprobs
from carrel.worker.constraints import is_constrained
from carrel.worker.filters import column, filter_probs
from carrel.worker.noise import uniform
from carrel.worker.penalties import apply_penalties

MIN_TEMPERATURE = 1e-5  # below this it is greedy in all but name; the division stays finite


@dataclass(slots=True)
class Sampled:
    """One token for each row, and log probabilities for those rows that asked."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


def sample(logits: Tensor, requests: list[Request], *, constrained: Tensor | None = None) -> Sampled:
    """``logits`` [num_rows, vocab_size] of any float dtype, not changed; ``requests`` one for each row.

    ``constrained``: the same with what the constraints of the rows make of them; log probabilities are of ``logits``.
    """
    raw = logits.to(torch.float32)
    params = [_params(request) for request in requests]
    allowed = raw if constrained is None else constrained
    adjusted = apply_penalties(_mask_early_stops(allowed, requests, params), requests, params)
    token_ids = torch.argmax(adjusted, dim=-1)  # [num_rows]
    rows = [row for row, param in enumerate(params) if not param.greedy]
    if rows:
        token_ids[rows] = _draw(adjusted[rows], [requests[row] for row in rows], [params[row] for row in rows])
    return Sampled(token_ids.tolist(), _logprobs(raw, token_ids, params))


def _params(request: Request) -> SamplingParams:
    assert request.sampling_params is not None, "only requests that sample reach the sampler"
    return request.sampling_params


def _mask_early_stops(logits: Tensor, requests: list[Request], params: list[SamplingParams]) -> Tensor:
    """Before min_tokens, whatever would end the sequence cannot be drawn. Constrained rows have that in their mask."""
    out = logits
    for row, (request, param) in enumerate(zip(requests, params, strict=True)):
        if request.num_output_tokens >= param.min_tokens or is_constrained(request):
            continue
        ends = sorted(set(request.eos_token_ids) | set(param.stop_token_ids))
        ends = [token for token in ends if 0 <= token < logits.shape[1]]
        if ends:
            out = logits.clone() if out is logits else out
            out[row, ends] = -torch.inf
    return out


def _draw(logits: Tensor, requests: list[Request], params: list[SamplingParams]) -> Tensor:
    """[num_rows] token ids: the point where the distribution function passes the row's random number.

    Tokens stand in the order of their ids, not of their probability, so that equal logits cannot trade places.
    """
    temperature = column([max(param.temperature, MIN_TEMPERATURE) for param in params], logits)
    probs = filter_probs(
        (logits / temperature).softmax(dim=-1),
        top_k=[param.top_k for param in params],
        top_p=[param.top_p for param in params],
        min_p=[param.min_p for param in params],
    )
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)  # [num_rows, vocab_size]
    points = [uniform(request.seed, request.num_tokens) for request in requests]  # the new token's position
    points_column = torch.tensor(points, dtype=torch.float64, device=logits.device).unsqueeze(1)
    # right=True finds the first sum above the point: never a token of probability 0.
    drawn = torch.searchsorted(cumulative, points_column * cumulative[:, -1:], right=True).squeeze(1)
    return drawn.clamp_(max=probs.shape[1] - 1)  # a point rounded up to the whole sum


def _logprobs(raw: Tensor, token_ids: Tensor, params: list[SamplingParams]) -> list[TokenLogprobs | None]:
    """Of the model's own distribution: before penalties, temperature and filters."""
    out: list[TokenLogprobs | None] = [None] * len(params)
    rows = [row for row, param in enumerate(params) if param.logprobs is not None]
    if not rows:
        return out
    logprobs = raw[rows].log_softmax(dim=-1)  # [num_asking, vocab_size]
    chosen = logprobs.gather(1, token_ids[rows].unsqueeze(1))
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    most = min(max(params[row].logprobs or 0 for row in rows), raw.shape[1])
    top_values, top_ids = logprobs.topk(most, dim=-1)
    for index, row in enumerate(rows):
        count = min(params[row].logprobs or 0, most)
        out[row] = TokenLogprobs(
            token_ids=[int(token_ids[row]), *top_ids[index, :count].tolist()],
            logprobs=[float(chosen[index, 0]), *top_values[index, :count].tolist()],
            ranks=[int(ranks[index]), *range(1, count + 1)],
        )
    return out
