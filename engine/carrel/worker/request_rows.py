"""Which row of the runner's device tables belongs to which request, and the block tables as the device has them.

A request keeps its row from its first step until it is released. Blocks are only ever appended to a block table, so a
step sends only the new ones; after a preemption the request begins again with other blocks, and all are sent. Host
memory only; knows no streams and no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.worker.input_buffers import IntArray


class TableUpdate(NamedTuple):
    """Numbers to write into the flattened table [num_rows * max_blocks]."""

    places: IntArray  # [n] int64
    block_ids: IntArray  # [n] int32


class RequestRows:
    """``num_rows`` rows of ``max_blocks`` blocks for requests, and one more, ``padding``, that belongs to nobody.

    There must be twice as many rows as requests in a step: two steps may be in flight.
    """

    def __init__(self, num_rows: int, max_blocks: int) -> None:
        self.padding = num_rows
        self.block_tables = np.zeros((num_rows + 1, max_blocks), dtype=np.int32)
        self._num_blocks = np.zeros(num_rows + 1, dtype=np.int64)
        self._num_preemptions = np.zeros(num_rows + 1, dtype=np.int64)
        self._last_step = np.zeros(num_rows + 1, dtype=np.int64)
        self._row_of: dict[Request, int] = {}  # by identity
        self._by_id: dict[str, Request] = {}
        self._free = list(range(num_rows))
        self._step = 1

    @property
    def max_blocks(self) -> int:
        return self.block_tables.shape[1]

    def assign(self, items: Sequence[ScheduledRequest]) -> IntArray:
        """The row of each request, [n] int64; a new one for who has none."""
        self._step += 1
        row_of = self._row_of
        try:
            rows = np.array([row_of[item.request] for item in items], dtype=np.int64)
        except KeyError:
            rows = np.array([self._row(item.request) for item in items], dtype=np.int64)
        self._last_step[rows] = self._step
        return rows

    def release(self, request_ids: Sequence[str]) -> None:
        """These requests ended; their rows may go to others from the next step on. Unknown ids are passed over."""
        for request_id in request_ids:
            if (request := self._by_id.get(request_id)) is not None:
                self._drop(request)

    def update_tables(self, items: Sequence[ScheduledRequest], rows: IntArray) -> TableUpdate:
        """Take in the block tables of this step; what the device lacks of them."""
        held = np.array([len(item.block_table) for item in items], dtype=np.int64)
        preemptions = np.array([item.request.num_preemptions for item in items], dtype=np.int64)
        begins = preemptions != self._num_preemptions[rows]
        self._num_blocks[rows[begins]] = 0
        self._num_preemptions[rows] = preemptions
        places, block_ids = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
        for index in np.flatnonzero(held != self._num_blocks[rows]).tolist():
            row, first, end = int(rows[index]), int(self._num_blocks[rows[index]]), int(held[index])
            assert first < end <= self.max_blocks, "block tables grow, up to the longest sequence"
            self.block_tables[row, first:end] = items[index].block_table[first:]
            places.append(np.arange(row * self.max_blocks + first, row * self.max_blocks + end))
            block_ids.append(self.block_tables[row, first:end])
        self._num_blocks[rows] = held
        return TableUpdate(np.concatenate(places), np.concatenate(block_ids))

    def _row(self, request: Request) -> int:
        row = self._row_of.get(request)
        if row is None:
            if not self._free:
                self._reclaim()
            row = self._row_of[request] = self._free.pop()
            self._by_id[request.request_id] = request
            self._num_blocks[row], self._num_preemptions[row] = 0, request.num_preemptions
        self._last_step[row] = self._step
        return row

    def _reclaim(self) -> None:
        """Rows of requests that gave way and are in neither of the last two steps; who returns gets a new one."""
        idle = [request for request, row in self._row_of.items() if self._last_step[row] < self._step - 1]
        assert idle, "there are rows for two steps"
        for request in idle:
            self._drop(request)

    def _drop(self, request: Request) -> None:
        self._free.append(self._row_of.pop(request))
        if self._by_id.get(request.request_id) is request:
            del self._by_id[request.request_id]
