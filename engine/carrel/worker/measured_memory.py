"""How much memory work takes on a GPU, measured while it runs. Knows torch.cuda's counters; knows no models."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


def measure_peak(device: torch.device, work: Callable[[], None]) -> int:
    """Bytes that ``work`` had in use at most, beyond what was in use before. What it cached is given back."""
    _settle(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    _settle(device)
    return peak


def measure_taken(device: torch.device, work: Callable[[], None]) -> int:
    """Bytes that are gone from the device after ``work``, also what torch's counters do not see (CUDA graphs)."""
    _settle(device)
    before, _ = torch.cuda.mem_get_info(device)
    work()
    _settle(device)
    after, _ = torch.cuda.mem_get_info(device)
    return max(0, int(before) - int(after))


def _settle(device: torch.device) -> None:
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
