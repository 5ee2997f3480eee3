"""Rows for the sampling kernels' tests: parameters by name, packed as the device sampler packs them."""

from __future__ import annotations

from typing import Any

import torch
from carrel.kernels import sampling_rows as columns
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingRows
from torch import Tensor

FLOATS = {
    "temperature": columns.TEMPERATURE,
    "top_p": columns.TOP_P,
    "min_p": columns.MIN_P,
    "presence": columns.PRESENCE,
    "frequency": columns.FREQUENCY,
    "repetition": columns.REPETITION,
}
INTS = {"top_k": columns.TOP_K, "min_length": columns.MIN_LENGTH, "slot": columns.SLOT}

FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 300},
    {"top_k": 4000},
    {"top_p": 0.05},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.99999},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"min_p": 1e-6, "top_p": 0.7},
    {"min_p": 0.01, "top_p": 0.7, "top_k": 50},
    {"top_k": 20, "top_p": 0.8, "temperature": 0.7},
    {"top_k": 700, "top_p": 0.9, "temperature": 1.5},
    {"temperature": 0.0, "top_k": 3},
    {"temperature": 1e-7, "top_p": 0.3},
    {"temperature": 100.0, "top_p": 0.5},
]


def make_rows(params: list[dict[str, Any]], device: torch.device) -> SamplingRows:
    """Rows of temperature 1 unless said otherwise; row r has the mixed seed 7919 (r + 1) and position r + 1."""
    rows = SamplingRows.empty(len(params), "cpu")
    for row, values in enumerate(params):
        rows.longs[row, columns.STATE] = values.get("state", 7919 * (row + 1))
        rows.longs[row, columns.POSITION] = values.get("position", row + 1)
        for name, value in {"temperature": 1.0, **values}.items():
            if name in FLOATS:
                rows.floats[row, FLOATS[name]] = value
            elif name in INTS:
                rows.ints[row, INTS[name]] = value
    return SamplingRows(rows.packed.to(device))


def make_logits(num_rows: int, vocab_size: int, *, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def no_table(device: torch.device) -> Tensor:
    return torch.zeros(0, 0, dtype=torch.int16, device=device)


def make_table(num_slots: int, vocab_size: int, device: torch.device) -> Tensor:
    """A third of the tokens in the prompt, some in the output, the first eight end the text."""
    generator = torch.Generator().manual_seed(3)
    table = (torch.rand(num_slots, vocab_size, generator=generator) < 0.3).to(torch.int16) * columns.IN_PROMPT
    counts = torch.poisson(torch.full((num_slots, vocab_size), 0.3), generator=generator).to(torch.int16)
    table += counts * columns.OCCURS
    table[:, :8] |= columns.ENDS_TEXT
    return table.to(device)


def small_buffers(num_rows: int, vocab_size: int, device: torch.device) -> SamplingBuffers:
    """Small tiles and few selected groups: several tiles, and rows that must be searched whole."""
    return SamplingBuffers.empty(num_rows, vocab_size, device, tile=1024, group=8, num_selected=16)
