"""A step as numbers, for the other ranks: what rank 0's runner is told, without what only sampling needs.

::

    | model | items | item: handle, preemptions, tokens, computed, flags, ids, blocks, prompt | ids … | blocks … | …

``prompt``: of so many tokens all ranks make the logits, for the prompt's log probabilities; rank 0 looks at them.

A block table grows, so only what is new of it is sent; after a preemption, or to a rank that does not know the request,
all of it. ``handle`` is rank 0's number for a request. Knows requests; knows no pipes and no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.worker.frames import IntArray

SAMPLES, ON_DEVICE, BEGINS = 1, 2, 4
ITEM = 8  # numbers before the ids


@dataclass(slots=True)
class _Sent:
    """What the other ranks know of a request."""

    handle: int
    num_preemptions: int
    num_blocks: int = 0
    last_step: int = 0


class StepWriter:
    """Rank 0's side, one for each model. ``capacity``: requests to remember before those not in work are forgotten."""

    def __init__(self, model: int, *, capacity: int = 1024) -> None:
        self._model, self._capacity = model, capacity
        self._sent: dict[Request, _Sent] = {}  # by identity
        self._by_id: dict[str, Request] = {}
        self._next_handle = 0
        self._step = 0

    def write(self, items: Sequence[ScheduledRequest]) -> IntArray:
        """The message of this step. Reads requests as :class:`ScheduledRequest` allows it during submit()."""
        self._step += 1
        numbers = [self._model, len(items)]
        for item in items:
            self._write_item(item, numbers)
        return np.array(numbers, dtype=np.int64)

    def release(self, request_ids: Sequence[str]) -> list[int]:
        """Handles of those that ended and are known."""
        requests = [self._by_id.pop(name) for name in request_ids if name in self._by_id]
        return [self._sent.pop(request).handle for request in requests]

    def forget_idle(self) -> list[int]:
        """Handles of requests that gave way long ago, when there are too many; who returns gets a new one."""
        if len(self._sent) <= self._capacity:
            return []
        idle = [request.request_id for request, sent in self._sent.items() if sent.last_step < self._step - 1]
        return self.release(idle)

    def _write_item(self, item: ScheduledRequest, numbers: list[int]) -> None:
        request = item.request
        sent, begins = self._sent.get(request), False
        if sent is None:
            sent = self._sent[request] = _Sent(self._next_handle, request.num_preemptions)
            self._by_id[request.request_id] = request
            self._next_handle += 1
            begins = True
        if sent.num_preemptions != request.num_preemptions:
            sent.num_preemptions, sent.num_blocks, begins = request.num_preemptions, 0, True
        ids = [] if item.input_on_device else request.token_ids(item.num_computed_tokens, item.num_tokens)
        blocks = item.block_table[sent.num_blocks :]
        flags = SAMPLES * item.samples + ON_DEVICE * item.input_on_device + BEGINS * begins
        numbers += (sent.handle, request.num_preemptions, item.num_scheduled_tokens, item.num_computed_tokens, flags)
        numbers += (len(ids), len(blocks), item.num_prompt_logits)
        numbers += ids
        numbers += blocks
        sent.num_blocks, sent.last_step = len(item.block_table), self._step


@dataclass(slots=True, eq=False)
class FollowedRequest(Request):
    """A request as the other ranks know it: an identity, its blocks, and the ids that this step computes."""

    step_ids: list[int] = field(default_factory=list)

    def token_ids(self, start: int, end: int) -> list[int]:
        return self.step_ids


class StepReader:
    """The other ranks' side, one for each model."""

    def __init__(self) -> None:
        self._requests: dict[int, FollowedRequest] = {}

    def read(self, numbers: IntArray) -> list[ScheduledRequest]:
        """Items in rank 0's order."""
        values = numbers.tolist()
        items: list[ScheduledRequest] = []
        at = 2
        for _ in range(values[1]):
            head = values[at : at + ITEM]
            ids_end = at + ITEM + head[5]
            end = ids_end + head[6]
            items.append(self._read_item(head, values[at + ITEM : ids_end], values[ids_end:end]))
            at = end
        return items

    def release(self, handles: Sequence[int]) -> list[str]:
        """The ids by which the runner knows them."""
        return [self._requests.pop(handle).request_id for handle in handles]

    def _read_item(self, head: list[int], ids: list[int], blocks: list[int]) -> ScheduledRequest:
        handle, num_preemptions, count, computed, flags = head[:5]
        request = self._requests.get(handle)
        if request is None:
            request = FollowedRequest(f"{handle}", "", [0], sampling_params=SamplingParams())
            self._requests[handle] = request
        request.num_preemptions, request.step_ids = num_preemptions, ids
        if flags & BEGINS:
            request.block_ids = blocks
        else:
            request.block_ids += blocks
        return ScheduledRequest(
            request, count, request.block_ids, computed, bool(flags & SAMPLES), bool(flags & ON_DEVICE), head[7]
        )
