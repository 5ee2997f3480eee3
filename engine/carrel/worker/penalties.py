"""Presence, frequency and repetition penalties: OpenAI's first two on the output, the third on prompt and output."""

from __future__ import annotations

import torch
from torch import Tensor

from carrel.params import SamplingParams
from carrel.request import Request

LARGEST = 1e30  # keeps an extreme penalty finite, also after the division by the smallest temperature


def apply_penalties(logits: Tensor, requests: list[Request], params: list[SamplingParams]) -> Tensor:
    """fp32 [num_rows, vocab_size] → the same with penalties; ``logits`` itself if no row has any."""
    rows = [row for row, param in enumerate(params) if param.has_penalties]
    if not rows:
        return logits
    out = logits.clone()
    for row in rows:
        _penalise_row(out[row], requests[row], params[row])
    return out


def _penalise_row(logits: Tensor, request: Request, params: SamplingParams) -> None:
    """In place on one row [vocab_size]; touches only the tokens that occur."""
    if params.repetition_penalty != 1.0:
        seen, _ = _unique(request.prompt_token_ids + request.output_token_ids, logits)
        values = logits[seen]
        factor = params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / factor, values * factor).clamp_(-LARGEST, LARGEST)
    if request.output_token_ids:
        written, counts = _unique(request.output_token_ids, logits)
        logits[written] -= params.frequency_penalty * counts + params.presence_penalty


def _unique(token_ids: list[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids inside the vocabulary, and how often each occurs."""
    ids = torch.tensor(token_ids, dtype=torch.int64, device=like.device)
    distinct, counts = torch.unique(ids[ids < like.shape[0]], return_counts=True)
    return distinct, counts
