"""Masked rows = their twin; rows that are not finite stay so."""

from __future__ import annotations

import pytest
import torch
from carrel.kernels import reference_sampling as reference
from carrel.kernels.token_bitmask import mask_tokens
from sampling_cases import make_logits


@pytest.mark.parametrize("vocab_size", [5, 32, 4096, 9001])
def test_equals_its_twin(vocab_size: int, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(-(2**31), 2**31, (3, -(-vocab_size // 32)), generator=generator).to(torch.int32)
    masks[1] = -1
    rows = torch.tensor([4, 0, 2], device=device)
    logits = make_logits(6, vocab_size).to(device)
    logits[4, 1], logits[4, 3], logits[2, 0] = torch.nan, -torch.inf, torch.inf
    out, twin = logits.clone(), logits.clone()
    mask_tokens(out, masks.to(device), rows)
    reference.mask_tokens(twin, masks.to(device), rows)
    torch.testing.assert_close(out, twin, equal_nan=True)
    for row in (0, 1, 3, 5):
        assert torch.equal(out[row], logits[row]), "everything is allowed, or the row has no mask"
    for index, row in ((0, 4), (2, 2)):
        for token in range(0, vocab_size, 97):
            stays = bool((int(masks[index, token // 32]) >> (token % 32)) & 1)
            sick = bool(torch.isnan(logits[row, token]) | torch.isposinf(logits[row, token]))
            assert bool(torch.isneginf(out[row, token])) == (not stays and not sick)


def test_no_rows_are_no_work(device: torch.device) -> None:
    logits = make_logits(2, 40).to(device)
    out = logits.clone()
    mask_tokens(
        out, torch.zeros(0, 2, dtype=torch.int32, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    )
    assert torch.equal(out, logits)


def test_rows_may_lie_apart(device: torch.device) -> None:
    wide = make_logits(3, 64).to(device)
    out = wide.clone()
    mask_tokens(out[:, :40], torch.zeros(1, 2, dtype=torch.int32, device=device), torch.tensor([1], device=device))
    assert torch.isneginf(out[1, :40]).all()
    assert torch.equal(out[1, 40:], wide[1, 40:]) and torch.equal(out[::2], wide[::2])
