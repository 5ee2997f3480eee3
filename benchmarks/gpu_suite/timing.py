"""Seconds of a piece of work on a device: by CUDA events there, by the clock elsewhere. Knows no model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[], Any]


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(torch.device(device))


def seconds_each(work: Work, device: str, *, repeats: int, warm_ups: int = 2) -> list[float]:
    """Of each of ``repeats`` runs, as the device counts them."""
    for _ in range(warm_ups):
        work()
    synchronize(device)
    if not device.startswith("cuda"):
        return [_clocked(work) for _ in range(repeats)]
    make_event: Any = torch.cuda.Event  # torch gives it no types
    events = [(make_event(enable_timing=True), make_event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    synchronize(device)
    return [begin.elapsed_time(end) / 1e3 for begin, end in events]


def median_seconds(work: Work, device: str, *, repeats: int = 10, warm_ups: int = 2) -> float:
    return statistics.median(seconds_each(work, device, repeats=repeats, warm_ups=warm_ups))


def _clocked(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
