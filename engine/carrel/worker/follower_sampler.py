"""In the place of a sampler on ranks that do not sample: rank 0 does, and sends the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carrel.step import RequestResult, ScheduledRequest


@dataclass(slots=True)
class ReceivedStep:
    """``token_ids`` [num_samples] int64, to be overwritten by rank 0's."""

    token_ids: Tensor

    def results(self) -> list[RequestResult]:
        return [RequestResult() for _ in range(len(self.token_ids))]


class FollowerSampler:
    """Implements :class:`carrel.worker.step_sampler.StepSampler`."""

    def sample(self, logits: Tensor, items: Sequence[ScheduledRequest]) -> ReceivedStep:
        return ReceivedStep(torch.zeros(len(items), dtype=torch.int64, device=logits.device))

    def runs_ahead(self, items: Sequence[ScheduledRequest]) -> bool:
        return True

    def release(self, request_ids: Sequence[str]) -> None:
        """Nothing is kept."""
