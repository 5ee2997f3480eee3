"""The device side of the engine: a runner for each hosted model. Implements :class:`carrel.step.Executor`."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.step import FinishedBatch, ModelBatch, PendingBatch, RequestResult
from carrel.worker.model_runner import ModelRunner


class DeviceExecutor:
    """Sends each batch to the runner of its model."""

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        self.runners = dict(runners)

    @property
    def is_asynchronous(self) -> bool:
        """No runner works behind the back of ``submit`` yet."""
        return False

    def submit(self, batch: ModelBatch) -> PendingBatch:
        """Compute ``batch`` at once."""
        return FinishedBatch(self.execute(batch))

    def execute(self, batch: ModelBatch) -> list[RequestResult]:
        """Results in the order of ``batch.requests``."""
        return self.runners[batch.model].execute(batch.requests)

    def release(self, request_ids: list[str]) -> None:
        """Nothing is kept for single requests: all that a step needs is in its batch."""

    def close(self) -> None:
        """Give the memory of every model back. Idempotent."""
        for runner in self.runners.values():
            runner.close()
