"""The device side of the engine: a runner for each hosted model. Implements :class:`carrel.step.Executor`."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.step import ModelBatch, PendingBatch, RequestResult
from carrel.worker.model_runner import ModelRunner
from carrel.worker.step_threads import StepThreads


class DeviceExecutor:
    """Sends each batch to the runner of its model. ``threads``: chooses the number of threads for each step."""

    def __init__(self, runners: Mapping[str, ModelRunner], threads: StepThreads | None = None) -> None:
        self.runners = dict(runners)
        self._threads = threads
        self._num_weights = {key: runner.num_weights for key, runner in self.runners.items()} if threads else {}

    @property
    def is_asynchronous(self) -> bool:
        """Whether ``submit`` returns before the device is done."""
        return any(runner.is_asynchronous for runner in self.runners.values())

    def submit(self, batch: ModelBatch) -> PendingBatch:
        """Start ``batch``; on a CPU it is computed at once."""
        if self._threads is not None:
            num_tokens = sum([item.num_scheduled_tokens for item in batch.requests])
            self._threads.prepare(num_tokens, self._num_weights[batch.model])
        return self.runners[batch.model].submit(batch.requests)

    def execute(self, batch: ModelBatch) -> list[RequestResult]:
        """Results in the order of ``batch.requests``."""
        return self.submit(batch).wait()

    def release(self, request_ids: list[str]) -> None:
        """These requests ended."""
        for runner in self.runners.values():
            runner.release(request_ids)

    def close(self) -> None:
        """Give the memory of every model back. Idempotent."""
        for runner in self.runners.values():
            runner.close()
        if self._threads is not None:
            self._threads.restore()
