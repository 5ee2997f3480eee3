"""The heart of the engine: schedule, execute, update. Knows no threads and no clients."""

from __future__ import annotations

from collections.abc import Sequence

from carrel.errors import CarrelError
from carrel.request import Request
from carrel.scheduler import Scheduler
from carrel.stats import SchedulerStats
from carrel.step import EngineOutput, Executor, ModelBatch, RequestResult


class EngineCore:
    """One scheduler, one device. Not thread-safe but for :meth:`check_fits` and :meth:`stats`: a loop owns it."""

    def __init__(self, scheduler: Scheduler, executor: Executor) -> None:
        self._scheduler = scheduler
        self._executor = executor

    def step(self) -> list[EngineOutput]:
        """Compute one step and return its news. A batch that fails ends its own requests and no others."""
        output = self._scheduler.schedule()
        assert output.batches or not self.has_work, "the scheduler makes no progress although requests are unfinished"
        results = [self._execute(batch) for batch in output.batches]
        return self._release(self._scheduler.update(output, results))

    def check_fits(self, request: Request) -> None:
        """See :meth:`carrel.scheduler.Scheduler.check_fits`."""
        self._scheduler.check_fits(request)

    def add_request(self, request: Request) -> None:
        self._scheduler.add_request(request)

    def abort(self, request_ids: Sequence[str]) -> list[EngineOutput]:
        """End these requests, as far as they are unfinished."""
        return self._release(self._scheduler.abort(request_ids))

    def fail_all(self, error: CarrelError) -> list[EngineOutput]:
        """End every request with ``error``."""
        return self._release(self._scheduler.fail_all(error))

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_unfinished

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting

    def stats(self) -> SchedulerStats:
        return self._scheduler.stats()

    def _execute(self, batch: ModelBatch) -> Sequence[RequestResult] | Exception:
        try:
            return self._executor.execute(batch)
        except Exception as error:  # the second rung of the error ladder: this batch fails, the engine goes on
            return error

    def _release(self, outputs: list[EngineOutput]) -> list[EngineOutput]:
        if ended := [output.request_id for output in outputs if output.finished]:
            self._executor.release(ended)
        return outputs
