"""One independent part of the run, and what it may say: rows, checks, notes. Knows time; knows no device.

Events leave the process as lines, one JSON object each behind ``MARK``, the moment they happen: whatever becomes of the
section later, what it has said is kept.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_suite.options import Options

MARK = "@carrel "
Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Section:
    """``run`` gets a :class:`Context`; the process is killed when it takes longer than ``budget_seconds``."""

    name: str
    budget_seconds: float
    run: Callable[[Context], None]
    is_check: bool = False  # measures nothing, so that others may run beside it


class Context:
    """What a section is given: options, a clock, and the way out for results."""

    def __init__(self, section: str, options: Options, budget_seconds: float) -> None:
        self.section = section
        self.options = options
        self._ends = time.monotonic() + budget_seconds

    @property
    def remaining(self) -> float:
        """Seconds until the section is cut off."""
        return self._ends - time.monotonic()

    def row(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        bytes_per_unit: float = 0.0,
        flops_per_unit: float = 0.0,
        **detail: Any,
    ) -> None:
        """A figure. Bytes and FLOP that one unit takes at least give its floor, with the ceilings of the same run."""
        floor = {"bytes_per_unit": bytes_per_unit, "flops_per_unit": flops_per_unit}
        send("row", section=self.section, name=name, value=value, unit=unit, **floor, detail=detail)

    def check(self, name: str, passed: bool, **detail: Any) -> None:
        """A verdict. One that failed ends nothing."""
        send("check", section=self.section, name=name, passed=passed, detail=detail)

    def note(self, text: str) -> None:
        """What a reader must know, e.g. why a figure is missing."""
        send("note", section=self.section, text=text)

    def facts(self, **facts: Any) -> None:
        """Of the machine: device, versions."""
        send("facts", **facts)

    def profile(self, name: str, kernels: list[dict[str, Any]]) -> None:
        send("profile", section=self.section, name=name, kernels=kernels)


def send(event: str, **content: Any) -> None:
    sys.stdout.write(MARK + json.dumps({"event": event, **content}, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()
