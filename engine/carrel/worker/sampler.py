"""From logits to tokens, a whole batch at once, in fp32.

A pure function of (logits, sampling parameters, tokens so far, seed, position): no generator, no state, so that
batching and preemption change nothing. Order: min_tokens mask → penalties → temperature → min_p → top_k, top_p → draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import TokenLogprobs
from carrel.worker.noise import exponential_noise
from carrel.worker.penalties import apply_penalties


@dataclass(slots=True)
class Sampled:
    """One token for each row, and log probabilities for those rows that asked."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


def sample(logits: Tensor, requests: list[Request]) -> Sampled:
    """``logits`` [num_rows, vocab_size] of any float dtype, not changed; ``requests`` one for each row."""
    raw = logits.to(torch.float32)
    params = [_params(request) for request in requests]
    adjusted = apply_penalties(_mask_early_stops(raw, requests, params), requests, params)
    token_ids = torch.argmax(adjusted, dim=-1)  # [num_rows]
    rows = [row for row, param in enumerate(params) if not param.greedy]
    if rows:
        drawn = _draw(adjusted[rows], [requests[row] for row in rows], [params[row] for row in rows])
        token_ids[rows] = drawn
    return Sampled(token_ids.tolist(), _logprobs(raw, token_ids, params))


def _params(request: Request) -> SamplingParams:
    assert request.sampling_params is not None, "only requests that sample reach the sampler"
    return request.sampling_params


def _mask_early_stops(logits: Tensor, requests: list[Request], params: list[SamplingParams]) -> Tensor:
    """Before min_tokens, whatever would end the sequence cannot be drawn."""
    out = logits
    for row, (request, param) in enumerate(zip(requests, params, strict=True)):
        if request.num_output_tokens >= param.min_tokens:
            continue
        ends = sorted(set(request.eos_token_ids) | set(param.stop_token_ids))
        ends = [token for token in ends if 0 <= token < logits.shape[1]]
        if ends:
            out = logits.clone() if out is logits else out
            out[row, ends] = -torch.inf
    return out


def _draw(logits: Tensor, requests: list[Request], params: list[SamplingParams]) -> Tensor:
    """[num_rows] token ids, each drawn from its row's filtered distribution."""
    logits = logits / _column([max(param.temperature, 1e-5) for param in params], logits)
    logits = filter_logits(
        logits,
        top_k=[param.top_k for param in params],
        top_p=[param.top_p for param in params],
        min_p=[param.min_p for param in params],
    )
    noise = exponential_noise(
        [request.seed for request in requests],
        [request.num_tokens for request in requests],  # the position that the new token takes
        logits.shape[1],
        logits.device,
    )
    return torch.argmax(logits - noise.log_(), dim=-1)  # the Gumbel trick: −log Exp(1) is Gumbel noise


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(1)


def filter_logits(logits: Tensor, *, top_k: list[int], top_p: list[float], min_p: list[float]) -> Tensor:
    """−inf for every token that min_p, top_k or top_p drops; one value of each for every row of ``logits``."""
    if any(min_p):
        floor = logits.amax(dim=-1, keepdim=True) + _column(min_p, logits).log()
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if all(k == 0 for k in top_k) and all(p == 1.0 for p in top_p):
        return logits
    return _filter_sorted(logits, top_k, top_p)


def _filter_sorted(logits: Tensor, top_k: list[int], top_p: list[float]) -> Tensor:
    """One descending sort serves both limits. Only the best tokens are sorted if every row has a top_k."""
    vocab_size = logits.shape[1]
    width = max(top_k) if all(top_k) else vocab_size
    best, indices = logits.topk(min(width, vocab_size), dim=-1)  # [num_rows, width], descending
    rank = torch.arange(best.shape[1], device=logits.device)
    limit = torch.tensor([k or vocab_size for k in top_k], device=logits.device).unsqueeze(1)
    best = best.masked_fill(rank >= limit, -torch.inf)
    probs = best.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # probability of the better tokens: reached top_p already?
    nucleus = _column(top_p, logits)
    dropped = (before >= nucleus) & (nucleus < 1.0) & (rank > 0)
    best = best.masked_fill(dropped, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter_(1, indices, best)


def _logprobs(raw: Tensor, token_ids: Tensor, params: list[SamplingParams]) -> list[TokenLogprobs | None]:
    """Of the model's own distribution: before penalties, temperature and filters."""
    out: list[TokenLogprobs | None] = [None] * len(params)
    rows = [row for row, param in enumerate(params) if param.logprobs is not None]
    if not rows:
        return out
    logprobs = raw[rows].log_softmax(dim=-1)  # [num_rows, vocab_size]
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
