"""Penalties where a logit is read = their twin."""

from __future__ import annotations

import pytest
import torch
from carrel.kernels import reference_sampling as reference
from carrel.kernels.penalties import penalised_logits
from sampling_cases import make_logits, make_rows, make_table

PARAMS = [
    {"slot": -1, "presence": 2.0},
    {"slot": 0, "presence": 1.5},
    {"slot": 1, "frequency": -0.7},
    {"slot": 2, "repetition": 1.3},
    {"slot": 3, "repetition": 0.5, "presence": -2.0, "frequency": 2.0},
    {"slot": 0, "repetition": 1e-45},
    {"slot": 0, "repetition": 1e38},
    {"slot": 3, "min_length": 8},  # its new token is number 8: from now on the text may end
    {"slot": 3, "min_length": 10},
]


@pytest.mark.parametrize("vocab_size", [9, 2048, 5003])
def test_equals_its_twin(vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
    logits = make_logits(len(PARAMS), vocab_size).to(device, dtype)
    rows = make_rows(PARAMS, device)
    table = make_table(4, vocab_size, device)
    out = penalised_logits(logits, rows, table)
    torch.testing.assert_close(out, reference.penalised_logits(logits, rows, table))
    assert torch.equal(out[0], logits[0].to(torch.float32))
    assert torch.isfinite(out[7]).all()
    assert torch.isneginf(out[8, :8]).all()


def test_logits_that_are_not_numbers_are_out(device: torch.device) -> None:
    logits = torch.tensor([[0.0, torch.nan, torch.inf, -torch.inf, 1.0]], device=device)
    table = torch.full((1, 5), 5, dtype=torch.int16, device=device)
    out = penalised_logits(logits, make_rows([{}], device), table)
    assert out[0].tolist() == [0.0, -torch.inf, -torch.inf, -torch.inf, 1.0]
