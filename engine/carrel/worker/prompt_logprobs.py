"""Log probabilities of a prompt's own tokens, from the hidden states of the step that computes them.

::

    row of the step      p0   p1   p2   p3      row p predicts token p + 1 of the prompt
    its logits give      p1   p2   p3   (the token that is sampled, the sampler's business)

Logits are made for a few rows at a time, so a long prompt takes no more memory than a full batch that samples. All
ranks of a model make the same products in the same order; those that sample nothing drop what they get. Knows no
sampling: these are the model's own probabilities, before penalties, temperature and masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carrel.models.decoder import Decoder
from carrel.step import RequestResult, ScheduledRequest, TokenLogprobs
from carrel.worker.step_sampler import not_finite
from carrel.worker.vectors import ReadBack

PROMPT_ROWS = 128  # rows of logits at a time; the memory plan counts on it


@dataclass(slots=True)
class PromptRows:
    """What came back for one request; complete when the step is."""

    place: int  # of its item in the step
    token_ids: list[int]  # [n] the prompt's own tokens
    chosen: Tensor  # [n] fp32, their log probabilities
    ranks: Tensor  # [n] int64
    top_logprobs: Tensor  # [n, num_top] fp32
    top_ids: Tensor  # [n, num_top] int64

    def put(self, results: Sequence[RequestResult]) -> None:
        """Into the result of its item, which fails if the model gave something that is not finite."""
        result = results[self.place]
        if not bool(torch.isfinite(self.chosen).all()):
            result.error = result.error or not_finite()
            return
        columns = (self.chosen.tolist(), self.ranks.tolist(), self.top_logprobs.tolist(), self.top_ids.tolist())
        result.prompt_logprobs = [
            TokenLogprobs([token_id, *ids], [chosen, *logprobs], [rank, *range(1, len(ids) + 1)])
            for token_id, chosen, rank, logprobs, ids in zip(self.token_ids, *columns, strict=True)
        ]


def launch_prompt_logprobs(
    model: Decoder, hidden: Tensor, items: Sequence[ScheduledRequest], read_back: ReadBack
) -> list[PromptRows]:
    """For each item that wants them. ``hidden`` [num_tokens, hidden_size] has the rows of ``items`` end to end.

    Waits for nothing unless ``read_back`` does.
    """
    launched, row = [], 0
    for place, item in enumerate(items):
        if item.num_prompt_logits:
            rows = hidden[row : row + item.num_prompt_logits]
            found = _of_request(model.logits, rows, place, item, read_back)
            launched += [] if found is None else [found]
        row += item.num_scheduled_tokens
    return launched


def _of_request(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, place: int, item: ScheduledRequest, read_back: ReadBack
) -> PromptRows | None:
    """None on a rank that only helps: it is not told what was asked."""
    params = item.request.sampling_params
    num_top = params.prompt_logprobs if params is not None else None
    first = item.num_computed_tokens + 1
    token_ids = item.request.prompt_token_ids[first : first + len(hidden)]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for start in range(0, len(hidden), PROMPT_ROWS):
        logits = logits_of(hidden[start : start + PROMPT_ROWS])  # [at most PROMPT_ROWS, vocab_size]
        if num_top is not None:
            targets = torch.tensor(token_ids[start : start + PROMPT_ROWS], dtype=torch.int64)
            parts.append(token_logprobs(logits, targets.to(logits.device, non_blocking=True), num_top))
    if num_top is None:
        return None
    columns = [read_back(torch.cat(column)) for column in zip(*parts, strict=True)]
    return PromptRows(place, token_ids, *columns)


def token_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``logits`` [n, vocab_size], ``token_ids`` [n] → (log probabilities [n] fp32, ranks [n] from 1, the same of the
    ``num_top`` most likely tokens [n, num_top], their ids [n, num_top])."""
    x = logits.to(torch.float32)
    log_sums = x.logsumexp(dim=-1, keepdim=True)
    chosen = x.gather(1, token_ids.unsqueeze(1))
    top, top_ids = x.topk(min(num_top, x.shape[1]), dim=-1)
    return (chosen - log_sums)[:, 0], (x > chosen).sum(dim=-1) + 1, top - log_sums, top_ids
