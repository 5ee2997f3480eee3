"""Runs sections one after the other in one process, so that imports and compiled kernels are paid for once.

A section that raises is reported with its traceback, and the next one runs. A device that no longer answers, as after
an illegal memory access, is of no use to anybody: then the process says so and ends, and the supervisor starts another.
"""

from __future__ import annotations

import gc
import sys
import traceback

from gpu_suite.options import Options
from gpu_suite.section import Context, Section, send

BROKEN = 17  # exit status: start another process for the rest


def work(options: Options, sections: list[Section]) -> int:
    for section in sections:
        send("start", section=section.name)
        error = _run(section, options)
        send("end", section=section.name, error=error)
        if not _clean_up(options.device):
            send(
                "note",
                section=section.name,
                text="the device failed after this section; the rest runs in a new process",
            )
            return BROKEN
    return 0


def _run(section: Section, options: Options) -> str | None:
    """The traceback, or None."""
    try:
        section.run(Context(section.name, options, section.budget_seconds))
    except Exception:  # whatever a section does, the others have their turn
        return traceback.format_exc()
    return None


def _clean_up(device: str) -> bool:
    """Give memory back to the device. False: the device is broken."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
