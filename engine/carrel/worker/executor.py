"""The device side of the engine: a runner for each hosted model. Implements :class:`carrel.step.Executor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from carrel.step import ModelBatch, PendingBatch, RequestResult
from carrel.worker.model_runner import ModelRunner

BeforeStep = Callable[
    [int, int], None
]  # told the tokens of a step and the weights of its model, on the engine's thread


class DeviceExecutor:
    """Sends each batch to the runner of its model."""

    def __init__(self, runners: Mapping[str, ModelRunner], before_step: BeforeStep | None = None) -> None:
        self.runners = dict(runners)
        self._before_step = before_step
        self._num_weights = {key: runner.num_weights for key, runner in self.runners.items()} if before_step else {}

    @property
    def is_asynchronous(self) -> bool:
        """Whether ``submit`` returns before the device is done."""
        return any(runner.is_asynchronous for runner in self.runners.values())

    def submit(self, batch: ModelBatch) -> PendingBatch:
        """Start ``batch``; on a CPU it is computed at once."""
        if self._before_step is not None:
            num_tokens = sum([item.num_scheduled_tokens for item in batch.requests])
            self._before_step(num_tokens, self._num_weights[batch.model])
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
