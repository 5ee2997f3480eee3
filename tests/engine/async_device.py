"""An asynchronous device for tests of overlap scheduling: whatever a synchronous executor does, later and in order."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable

from carrel.step import Executor, ModelBatch, PendingBatch, RequestResult, ScheduledRequest


class AsyncDevice:
    """Makes an asynchronous device of ``executor``, and as slow as can be: nothing runs before its wait().

    submit() copies what the batch holds, so that whatever the scheduler does afterwards is not seen. Sampled tokens are
    kept, and taken as inputs where the scheduler says so, before the host has seen them.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.last_token_ids: dict[str, int] = {}
        self.num_ahead = 0  # batches with an input that the host did not know
        self._queue: deque[Callable[[], None]] = deque()

    @property
    def is_asynchronous(self) -> bool:
        return True

    def submit(self, batch: ModelBatch) -> PendingBatch:
        self.num_ahead += any(item.input_on_device for item in batch.requests)
        pending = AsyncBatch(self, ModelBatch(batch.model, [_copy(item) for item in batch.requests]))
        self._queue.append(pending.run)
        return pending

    def release(self, request_ids: list[str]) -> None:
        """In its turn, for rows of these requests may be in a batch that is yet to run."""
        self.executor.release(request_ids)
        self._queue.append(lambda: self._forget(request_ids))

    def run_next(self) -> None:
        self._queue.popleft()()

    def _forget(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self.last_token_ids.pop(request_id, None)


class AsyncBatch:
    """A batch in the queue of an :class:`AsyncDevice`."""

    def __init__(self, device: AsyncDevice, batch: ModelBatch) -> None:
        self.device = device
        self.batch = batch
        self.is_done = False
        self.results: list[RequestResult] = []
        self.error: Exception | None = None

    @property
    def runs_ahead(self) -> bool:
        return not any(item.request.needs_host_tokens for item in self.batch.requests)

    def wait(self) -> list[RequestResult]:
        assert not self.is_done, "a batch is waited for in its turn"
        while not self.is_done:
            self.device.run_next()
        if self.error is not None:
            raise self.error
        return self.results

    def run(self) -> None:
        self.is_done = True
        for item in self.batch.requests:
            if item.input_on_device:
                self._take_input(item)
        try:
            self.results = self.device.executor.submit(self.batch).wait()
        except Exception as error:
            self.error = error
            return
        for item, result in zip(self.batch.requests, self.results or [], strict=False):  # faulty models give too few
            if result.token_ids:
                self.device.last_token_ids[item.request.request_id] = result.token_ids[-1]

    def _take_input(self, item: ScheduledRequest) -> None:
        request = item.request
        assert item.num_scheduled_tokens == 1 and item.num_tokens == request.num_tokens + 1, "one token is not known"
        assert not request.needs_host_tokens, "who looks at its tokens does not run ahead of them"
        request.output_token_ids.append(self.device.last_token_ids.get(request.request_id, 0))


def _copy(item: ScheduledRequest) -> ScheduledRequest:
    """The item and its request as they are now."""
    request = copy.copy(item.request)
    request.output_token_ids = list(request.output_token_ids)
    return dataclasses.replace(item, request=request, block_table=list(item.block_table))
