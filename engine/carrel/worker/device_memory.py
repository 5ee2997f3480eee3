"""How much memory a device has left. Knows the operating system and torch.cuda; knows nothing of models."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_UNKNOWN = 4 << 30  # assumed where the system says nothing
_CGROUP = Path("/sys/fs/cgroup")  # version 2; a container's limit may be far below the machine's memory


def available_bytes() -> int:
    """Bytes that this process can still take from main memory without swapping, within its container's limit."""
    limits = [_machine_available(), _container_available(_CGROUP)]
    return min(limit for limit in limits if limit is not None)


def _machine_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _physical_half()
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _physical_half()


def _physical_half() -> int:
    """Where there is no /proc: half of the machine's memory, taken as free."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return _UNKNOWN
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _container_available(cgroup: Path) -> int | None:
    """What the control group still allows; None if there is no limit."""
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


def cuda_memory(device: str) -> tuple[int, int]:
    """(free, total) bytes of a GPU."""
    free, total = torch.cuda.mem_get_info(torch.device(device))
    return int(free), int(total)
