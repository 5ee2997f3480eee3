"""How much memory work takes on a GPU, measured while it runs. Knows torch.cuda's counters; knows no models."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


def measure_peak(device: torch.device, work: Callable[[], None]) -> int:
    """Bytes that torch held for ``work`` at most, beyond what it held before. What it cached is given back.

    Held, not in use: gaps between tensors are gone from the device too.
    """
    give_back(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    work()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device) - before
    give_back(device)
    return peak


def measure_taken(device: torch.device, work: Callable[[], None]) -> int:
    """Bytes that are gone from the device after ``work``, also what torch's counters do not see (CUDA graphs)."""
    give_back(device)
    before, _ = torch.cuda.mem_get_info(device)
    work()
    give_back(device)
    after, _ = torch.cuda.mem_get_info(device)
    return max(0, int(before) - int(after))


def give_back(device: torch.device) -> None:
    """Return to the device what torch keeps of tensors that are gone."""
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
