"""The kernels that take the device's time in a piece of work, by torch.profiler. Knows no engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from gpu_suite.section import Context

TOP = 15


def profiled(context: Context, name: str, work: Callable[[], Any]) -> None:
    """Run ``work`` under the profiler and report its kernels, the longest first."""
    if not context.options.device.startswith("cuda"):
        context.note(f"profile of {name} needs a CUDA device")
        return
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    context.profile(name, longest(profiler.events() or (), "CUDA"))


def longest(events: Iterable[Any], device_type: str) -> list[dict[str, Any]]:
    """The names on which ``events`` of a type of device spent most time, with their share of all."""
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event in events:
        if event.device_type.name == device_type:
            times[event.name] += event.time_range.elapsed_us()
            counts[event.name] += 1
    total = max(1, sum(times.values()))
    return [
        {"name": name, "share": round(spent / total, 4), "microseconds": round(spent), "count": counts[name]}
        for name, spent in times.most_common(TOP)
    ]
