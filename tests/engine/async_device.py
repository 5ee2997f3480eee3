"""An asynchronous device for tests of overlap scheduling: whatever a synchronous executor does, later and in order."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable

from carrel.step import Executor, ModelBatch, PendingBatch, RequestResult, ScheduledRequest


class AsyncDevice:
    """Makes an asynchronous device of ``executor``, and as slow as can be: nothing runs before its wait().

    submit() copies what the batch holds, so that whatever the scheduler does afterwards is not seen. The tokens that a
    batch samples are kept for the next batch of the model, and are inputs there where the scheduler says so.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.last_token_ids: dict[str, dict[str, int]] = {}  # model → request id → token, of its batch that ran last
        self.lost: set[str] = set()  # requests of batches that failed: in a batch behind they may still have rows
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
        self.executor.release(request_ids)

    def run_next(self) -> None:
        self._queue.popleft()()


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
        device, items = self.device, self.batch.requests
        known = device.last_token_ids.pop(self.batch.model, {})
        rows = [item for item in items if self._has_input(item, known)]  # the others' results are of no interest
        try:
            results = device.executor.submit(ModelBatch(self.batch.model, rows)).wait() if rows else []
        except Exception as error:
            self.error = error
            device.lost.update(item.request.request_id for item in items)
            return
        if rows == items:  # faulty models give too few results, or none
            self.results = results
        else:
            by_item = dict(zip(map(id, rows), results, strict=True))
            self.results = [by_item.get(id(item), RequestResult([0] * item.samples)) for item in items]
        sampled = zip(items, self.results or [], strict=False)
        device.last_token_ids[self.batch.model] = {
            item.request.request_id: result.token_ids[-1] for item, result in sampled if result.token_ids
        }

    def _has_input(self, item: ScheduledRequest, known: dict[str, int]) -> bool:
        """Append the input of a row that runs ahead. False: a step before failed, the row's slots hold anything."""
        request = item.request
        if item.input_on_device:
            assert item.num_scheduled_tokens == 1 and item.num_tokens == request.num_tokens + 1, (
                "one token is not known"
            )
            assert not request.needs_host_tokens, "who looks at its tokens does not run ahead of them"
            request.output_token_ids.append(known.get(request.request_id, 0))
        return request.request_id not in self.device.lost and (not item.input_on_device or request.request_id in known)


def _copy(item: ScheduledRequest) -> ScheduledRequest:
    """The item and its request as they are now."""
    request = copy.copy(item.request)
    request.output_token_ids = list(request.output_token_ids)
    return dataclasses.replace(item, request=request, block_table=list(item.block_table))
