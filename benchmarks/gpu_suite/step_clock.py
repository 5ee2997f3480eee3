"""Where the host's time goes in each step: a light profiler around the core's own calls.

::

    schedule | prepare | launch | wait | update | deliver and the rest
               └ submit ────────┘  └ the device works, the host has nothing to do

Wraps methods of one live engine and takes the wraps off again; about a microsecond a call. ``prepare`` is the runner's
staging of the step's numbers, ``launch`` the rest of ``submit``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from carrel.host import EngineHost
from carrel.step import ModelBatch, PendingBatch, RequestResult

STAGING = ("stage", "_build")  # methods of runners and their input buffers that prepare a step


class StepClock:
    """Measures while it is open as a context manager::

    with StepClock(host) as clock:
        run(host, requests)
    clock.microseconds()
    """

    def __init__(self, host: EngineHost) -> None:
        self._core: Any = host.loop._core
        self._seconds = dict.fromkeys(("schedule", "prepare", "submit", "wait", "update", "step"), 0.0)
        self._wrapped: list[tuple[Any, str]] = []
        self.num_steps = 0

    def __enter__(self) -> StepClock:
        scheduler, executor = self._core._scheduler, self._core._executor
        self._wrap(scheduler, "schedule", "schedule")
        self._wrap(scheduler, "update", "update")
        self._wrap(self._core, "step", "step")
        self._wrap_submit(executor)
        for runner in executor.runners.values():
            for owner in (runner, *vars(runner).values()):
                for name in STAGING:
                    if callable(getattr(owner, name, None)) and hasattr(owner, "__dict__"):
                        self._wrap(owner, name, "prepare")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for owner, name in self._wrapped:
            owner.__dict__.pop(name, None)

    def microseconds(self) -> dict[str, float]:
        """Of each part, for one step."""
        steps = max(1, self.num_steps)
        mean = {name: 1e6 * seconds / steps for name, seconds in self._seconds.items()}
        submit = mean.pop("submit")
        mean["launch"] = submit - mean["prepare"]
        mean["host"] = mean["step"] - mean["wait"]
        return {name: round(value, 1) for name, value in mean.items()}

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._seconds[part] += time.perf_counter() - started
                self.num_steps += part == "step"

        self._put(owner, name, timed)

    def _wrap_submit(self, executor: Any) -> None:
        submit = executor.submit

        def timed(batch: ModelBatch) -> PendingBatch:
            started = time.perf_counter()
            pending = submit(batch)
            self._seconds["submit"] += time.perf_counter() - started
            return _TimedBatch(pending, self._seconds)

        self._put(executor, "submit", timed)

    def _put(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        setattr(owner, name, method)
        self._wrapped.append((owner, name))


class _TimedBatch:
    def __init__(self, batch: PendingBatch, seconds: dict[str, float]) -> None:
        self._batch = batch
        self._seconds = seconds

    @property
    def runs_ahead(self) -> bool:
        return self._batch.runs_ahead

    def wait(self) -> list[RequestResult]:
        started = time.perf_counter()
        try:
            return self._batch.wait()
        finally:
            self._seconds["wait"] += time.perf_counter() - started
