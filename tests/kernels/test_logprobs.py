"""Log probability and rank of the sampled token = their twin."""

from __future__ import annotations

import pytest
import torch
from carrel.kernels import reference_sampling as reference
from carrel.kernels.logprobs import token_logprobs
from sampling_cases import make_logits


@pytest.mark.parametrize("vocab_size", [1, 77, 4096, 9001])
def test_equals_its_twin(vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
    logits = make_logits(5, vocab_size).to(device, dtype)
    logits[1, 0] = -torch.inf
    token_ids = torch.tensor([0, vocab_size - 1, vocab_size // 2, 0, vocab_size // 3], device=device)
    rows = torch.tensor([4, 1, 2], device=device)
    if vocab_size == 1:
        logits[1, 0] = 3.0
    for mine, twin in zip(
        token_logprobs(logits, token_ids, rows), reference.token_logprobs(logits, token_ids, rows), strict=True
    ):
        torch.testing.assert_close(mine, twin, atol=2e-5, rtol=1e-5)


def test_the_best_token_has_rank_one_and_equal_ones_share_a_rank(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0]] * 3, device=device)
    _, ranks, _ = token_logprobs(logits, torch.tensor([1, 2, 0], device=device), torch.arange(3, device=device))
    assert ranks.tolist() == [1, 1, 3]


def test_nobody_asks(device: torch.device) -> None:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    assert [len(out) for out in token_logprobs(torch.zeros(2, 9, device=device), none, none)] == [0, 0, 0]
