"""min_p, top_k and top_p: which tokens may be drawn. Works on probabilities; knows no requests."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_WIDTH = 512  # a nucleus is searched among so many best tokens before the whole vocabulary is sorted


def column(values: list[float], like: Tensor) -> Tensor:
    """fp32 [num_rows, 1] on the device of ``like``."""
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(1)


def filter_probs(probs: Tensor, *, top_k: list[int], top_p: list[float], min_p: list[float]) -> Tensor:
    """``probs`` [num_rows, vocab_size] → the same with 0 for every dropped token; rows do not sum to 1 any more.

    One value of each limit for every row; ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 drop nothing. ``top_p`` counts the
    mass that the other two leave. The most likely token always stays. ``probs`` may be changed in place.
    """
    if any(min_p):
        floor = probs.amax(dim=-1, keepdim=True) * column(min_p, probs)
        probs = probs.masked_fill_(probs < floor, 0.0)
    rows = [row for row, (k, p) in enumerate(zip(top_k, top_p, strict=True)) if k > 0 or p < 1.0]
    if rows:
        probs[rows] = _keep_best(probs[rows], [top_k[row] for row in rows], [top_p[row] for row in rows])
    return probs


def _keep_best(probs: Tensor, top_k: list[int], top_p: list[float]) -> Tensor:
    """The ``top_k`` best of each row, of these the smallest set that reaches ``top_p`` of their mass."""
    vocab_size = probs.shape[1]
    width = min(vocab_size, max(k or FIRST_WIDTH for k in top_k))
    limit = torch.tensor([k or vocab_size for k in top_k], device=probs.device).unsqueeze(1)
    nucleus = column([p if p < 1.0 else torch.inf for p in top_p], probs)
    while True:
        best, token_ids = probs.topk(width, dim=-1)  # [num_rows, width], descending
        best = best.masked_fill_(torch.arange(width, device=probs.device) >= limit, 0.0)
        sums = best.cumsum(dim=-1, dtype=torch.float64)
        mass = torch.where(limit <= width, sums[:, -1:], probs.sum(dim=-1, keepdim=True, dtype=torch.float64))
        wanted = nucleus * mass  # infinite without top_p
        found = (limit <= width) | (sums[:, -1:] >= wanted)
        if width == vocab_size or bool(found.all()):
            break
        width = vocab_size
    before = sums - best  # mass of the better tokens: is the goal already reached without this one?
    best = best.masked_fill_(before >= wanted, 0.0)
    return torch.zeros_like(probs).scatter_(1, token_ids, best)
