"""The heart of the engine: schedule, submit, wait, update. Knows no threads and no clients.

Without overlap the host waits for each step before it does anything else::

    host    schedule 1, submit ┐          ┌ update 1, deliver, schedule 2, submit ┐          ┌ update 2 …
    device                     └ step 1 ──┘                                       └ step 2 ──┘

With overlap it submits one step more before it waits, so that the device always finds the next step ready::

    host    schedule 1, submit ┐ schedule 2, submit, wait ┐ update 1, deliver, schedule 3, submit, wait ┐ update 2 …
    device                     └ step 1 ──────────────────┴ step 2 ─────────────────────────────────────┴ step 3 …

Step 2 is scheduled before the tokens of step 1 are known. They are placeholders to the scheduler, and stay on the
device as the inputs of step 2. What step 1 turns out to end (a stop token, an abort, an error) is computed once more in
vain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from carrel.errors import CarrelError, EngineDeadError
from carrel.request import Request
from carrel.scheduler import Scheduler
from carrel.stats import SchedulerStats
from carrel.step import EngineOutput, Executor, FinishedBatch, ModelBatch, PendingBatch, RequestResult, SchedulerOutput


@dataclass(slots=True)
class _StepInFlight:
    output: SchedulerOutput
    batches: list[PendingBatch]  # one for each of output.batches

    @property
    def runs_ahead(self) -> bool:
        return all(batch.runs_ahead for batch in self.batches)


class EngineCore:
    """One scheduler, one device. Not thread-safe but for :meth:`check_fits` and :meth:`stats`: a loop owns it.

    ``overlap``: submit the next step while one is in flight, as far as the executor can.
    """

    def __init__(self, scheduler: Scheduler, executor: Executor, *, overlap: bool = False) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._overlap = overlap
        self._in_flight: deque[_StepInFlight] = deque()  # none between two calls without overlap, else at most one

    def step(self) -> list[EngineOutput]:
        """Submit the next step, finish what is not to stay in flight, and return the news of that."""
        output = self._scheduler.schedule()
        if output.batches:
            self._in_flight.append(_StepInFlight(output, [self._submit(batch) for batch in output.batches]))
        assert self._in_flight or not self.has_work, "the scheduler makes no progress although requests are unfinished"
        stays = self._overlap and bool(output.batches) and self._in_flight[-1].runs_ahead
        news: list[EngineOutput] = []
        while len(self._in_flight) > stays:
            news += self._finish(self._in_flight.popleft())
        return news

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

    def drain(self) -> list[EngineOutput]:
        """Finish what is in flight, without submitting more. The device is idle on return."""
        news: list[EngineOutput] = []
        while self._in_flight:
            news += self._finish(self._in_flight.popleft())
        return news

    @property
    def has_work(self) -> bool:
        """Whether :meth:`step` has something to do."""
        return bool(self._in_flight) or self._scheduler.has_unfinished

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting

    def stats(self) -> SchedulerStats:
        return self._scheduler.stats()

    def _submit(self, batch: ModelBatch) -> PendingBatch:
        try:
            return self._executor.submit(batch)
        except EngineDeadError:
            raise
        except Exception as error:  # the second rung of the error ladder: this batch fails, the engine goes on
            return FinishedBatch(error)

    def _finish(self, step: _StepInFlight) -> list[EngineOutput]:
        return self._release(self._scheduler.update(step.output, [_wait(batch) for batch in step.batches]))

    def _release(self, outputs: list[EngineOutput]) -> list[EngineOutput]:
        if ended := [output.request_id for output in outputs if output.finished]:
            self._executor.release(ended)
        return outputs


def _wait(batch: PendingBatch) -> list[RequestResult] | Exception:
    try:
        return batch.wait()
    except EngineDeadError:  # the device is lost, not a batch
        raise
    except Exception as error:  # the second rung again, for what shows only when the device is done
        return error
