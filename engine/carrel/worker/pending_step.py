"""A step that a device has in work: waits for that step alone, and for nothing launched after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from carrel.step import RequestResult
from carrel.worker.device_stream import Event


@dataclass(slots=True)
class PendingStep:
    """Implements :class:`carrel.step.PendingBatch`."""

    done: Event  # recorded behind the copies to the host
    finish: Callable[[], list[RequestResult]]  # makes the results of what was copied; waits for nothing
    runs_ahead: bool

    def wait(self) -> list[RequestResult]:
        """Results in the order of the batch."""
        self.done.wait()
        return self.finish()
