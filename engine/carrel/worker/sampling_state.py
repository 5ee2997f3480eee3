"""The sampling parameters of the rows of a step, kept on the device from step to step.

While the same requests decode in the same rows nothing is sent: seeds and limits stay, and the draw itself moves each
position on by one. Any other step sends all rows, 64 bytes each, in one pinned copy. Knows no kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carrel.kernels import sampling_rows as columns
from carrel.kernels.sampling_rows import SamplingMode, SamplingRows
from carrel.params import SamplingParams
from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.worker.constraints import is_constrained
from carrel.worker.device_stream import DeviceStream
from carrel.worker.noise import seed_state
from carrel.worker.token_table import TokenTable

LEAST_FP32 = 1e-37  # a repetition_penalty below is no fp32 number that a GPU divides by


class SamplingState:
    """Rows and token table of one model."""

    def __init__(self, stream: DeviceStream, vocab_size: int, max_rows: int) -> None:
        self._stream, self._vocab_size = stream, vocab_size
        self.rows = SamplingRows.empty(max_rows, stream.device)
        self.table = TokenTable(stream, vocab_size, 2 * max_rows)
        self.mode = SamplingMode.GREEDY  # what the rows of the last step need
        self.asking = torch.zeros(0, dtype=torch.int64, device=stream.device)  # rows that want log probabilities
        self.num_top = 0  # the most that one of them wants
        self._requests: list[Request] = []
        self._positions: list[int] = []
        self._packed: dict[Request, NDArray[np.int64]] = {}  # by identity

    def prepare(self, items: Sequence[ScheduledRequest]) -> None:
        """Make row i that of ``items[i]``; launches the copy, if there is something to send."""
        requests = [item.request for item in items]
        positions = [item.num_tokens for item in items]
        self.table.begin_step()
        moved_on = requests == self._requests and positions == [position + 1 for position in self._positions]
        if not moved_on:
            self._describe(requests)
        slots = [-1] * len(items)
        if SamplingMode.TABLE in self.mode:
            slots = [
                self.table.slot_of(request, position) if _needs_table(request) else -1
                for request, position in zip(requests, positions, strict=True)
            ]
        if not moved_on:
            self._send(requests, positions, slots)
        self._requests, self._positions = requests, positions

    def release(self, request_ids: Sequence[str]) -> None:
        self.table.release(request_ids)
        ended = set(request_ids)
        for request in [request for request in self._packed if request.request_id in ended]:
            del self._packed[request]
        if any(request.request_id in ended for request in self._requests):
            self._requests = []

    def _describe(self, requests: Sequence[Request]) -> None:
        """What this set of rows needs: kernels and log probabilities."""
        params = [_params(request) for request in requests]
        mode = SamplingMode.GREEDY
        for request in requests:
            mode |= mode_of(request)
        self.mode = mode
        asking = [row for row, param in enumerate(params) if param.logprobs is not None]
        self.num_top = min(max((params[row].logprobs or 0 for row in asking), default=0), self._vocab_size)
        if asking or len(self.asking):
            self.asking = self._to_device(np.array(asking, dtype=np.int64))

    def _send(self, requests: Sequence[Request], positions: Sequence[int], slots: Sequence[int]) -> None:
        packed = np.stack([self._packed_row(request) for request in requests])  # [num_rows, 8]
        packed[:, columns.POSITION] = positions
        packed.view(np.int32)[:, columns.SLOT] = slots
        self.rows.packed[: len(requests)].copy_(self._to_device(packed))

    def _to_device(self, values: NDArray[np.int64]) -> Tensor:
        host = self._stream.pinned(values.size, torch.int64)
        host.numpy()[:] = values.ravel()
        return host.to(self._stream.device, non_blocking=True).view(values.shape)

    def _packed_row(self, request: Request) -> NDArray[np.int64]:
        row = self._packed.get(request)
        if row is None:
            row = self._packed[request] = pack_row(request, self._vocab_size)
        return row


def pack_row(request: Request, vocab_size: int) -> NDArray[np.int64]:
    """[8] a row of :class:`SamplingRows`, without position and slot."""
    params = _params(request)
    row = np.zeros(8, dtype=np.int64)
    floats, ints = row.view(np.float32), row.view(np.int32)
    floats[columns.TEMPERATURE] = 0.0 if params.greedy else max(params.temperature, 1e-5)
    floats[columns.TOP_P] = params.top_p
    floats[columns.MIN_P] = params.min_p
    floats[columns.PRESENCE] = params.presence_penalty
    floats[columns.FREQUENCY] = params.frequency_penalty
    floats[columns.REPETITION] = max(min(params.repetition_penalty, 1e37), LEAST_FP32)
    ints[columns.TOP_K] = params.top_k if params.top_k < vocab_size else 0
    ints[columns.MIN_LENGTH] = request.num_prompt_tokens + params.min_tokens if _has_min_tokens(request) else 0
    row[columns.STATE] = np.uint64(seed_state(request.seed)).astype(np.int64)
    return row


def mode_of(request: Request) -> SamplingMode:
    """What the row of this request needs."""
    params = _params(request)
    mode = SamplingMode.TABLE if _needs_table(request) else SamplingMode.GREEDY
    if params.greedy:
        return mode
    filters = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
    return mode | SamplingMode.DRAW | (SamplingMode.FILTERS if filters else SamplingMode.GREEDY)


def _needs_table(request: Request) -> bool:
    return _params(request).has_penalties or _has_min_tokens(request)


def _has_min_tokens(request: Request) -> bool:
    """Constrained rows have that in their mask."""
    return _params(request).min_tokens > 0 and not is_constrained(request)


def _params(request: Request) -> SamplingParams:
    assert request.sampling_params is not None, "only requests that sample reach the sampler"
    return request.sampling_params
