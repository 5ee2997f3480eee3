"""What stands in each sequence, by token, on the device: for penalties and for the ends that min_tokens forbids.

A row of the table [num_slots, vocab_size] int16 belongs to a request from the first step that needs it until it is
released; kernels count every token that they draw. It is filled anew from the request's tokens when the device has not
seen just those before: after a step that was dropped, or when the row had to go to another request.

Takes vocab_size * 2 bytes a request that needs it, and nothing while none does. Knows no kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from carrel.kernels.sampling_rows import ENDS_TEXT, IN_PROMPT, MAX_OCCURRENCES, OCCURS
from carrel.request import Request
from carrel.worker.device_stream import DeviceStream

FIRST_SLOTS = 4


def largest_table(max_rows: int, vocab_size: int) -> int:
    """Bytes of the table when every row of every step needs it, and of the smaller one from which it has just grown."""
    return 3 * max_rows * vocab_size * torch.int16.itemsize


@dataclass(slots=True)
class _Slot:
    index: int
    num_tokens: int = -1  # of the sequence that the row holds
    last_step: int = 0


class TokenTable:
    """At most ``max_slots`` rows; there must be twice as many as requests in a step, for two steps may be in flight."""

    def __init__(self, stream: DeviceStream, vocab_size: int, max_slots: int) -> None:
        self._stream, self._vocab_size, self._max_slots = stream, vocab_size, max_slots
        self.tensor = torch.zeros(0, vocab_size, dtype=torch.int16, device=stream.device)
        self._slots: dict[Request, _Slot] = {}  # by identity
        self._free: list[int] = []
        self._step = 0

    def begin_step(self) -> None:
        self._step += 1

    def slot_of(self, request: Request, num_tokens: int) -> int:
        """The row that holds the first ``num_tokens`` tokens of ``request``, and one more after this step."""
        slot = self._slots.get(request)
        if slot is None:
            slot = self._slots[request] = _Slot(self._take())
        if slot.num_tokens != num_tokens:
            self._fill(slot.index, request, num_tokens)
        slot.num_tokens, slot.last_step = num_tokens + 1, self._step
        return slot.index

    def release(self, request_ids: Sequence[str]) -> None:
        ended = set(request_ids)
        for request in [request for request in self._slots if request.request_id in ended]:
            self._free.append(self._slots.pop(request).index)

    def _take(self) -> int:
        if not self._free:
            self._grow()
        if not self._free:
            idle = [request for request, slot in self._slots.items() if slot.last_step < self._step - 1]
            assert idle, "there are rows for two steps"
            self._free += [self._slots.pop(request).index for request in idle]
        return self._free.pop()

    def _grow(self) -> None:
        """Twice as many rows. Steps in flight read the old ones; the stream keeps the order."""
        held = self.tensor.shape[0]
        wanted = min(max(2 * held, FIRST_SLOTS), self._max_slots)
        if wanted == held:
            return
        tensor = torch.zeros(wanted, self._vocab_size, dtype=torch.int16, device=self._stream.device)
        tensor[:held].copy_(self.tensor)
        self.tensor = tensor
        self._free += range(held, wanted)

    def _fill(self, index: int, request: Request, num_tokens: int) -> None:
        assert request.num_tokens >= num_tokens, "the host knows the tokens that the device has not counted"
        row = self._stream.pinned(self._vocab_size, torch.int16)
        row.numpy()[:] = occurrences(request, num_tokens, self._vocab_size)
        self.tensor[index].copy_(row, non_blocking=True)


def occurrences(request: Request, num_tokens: int, vocab_size: int) -> NDArray[np.int16]:
    """[vocab_size] the row of the first ``num_tokens`` tokens of ``request``; other ids are passed over."""
    output = _inside(request.output_token_ids[: num_tokens - request.num_prompt_tokens], vocab_size)
    counts = np.bincount(output, minlength=vocab_size).clip(max=MAX_OCCURRENCES) * OCCURS
    counts[_inside(request.prompt_token_ids, vocab_size)] |= IN_PROMPT
    assert request.sampling_params is not None, "only requests that sample have a row"
    ends = [*request.eos_token_ids, *request.sampling_params.stop_token_ids]
    counts[_inside(ends, vocab_size)] |= ENDS_TEXT
    return counts.astype(np.int16)


def _inside(token_ids: Sequence[int], vocab_size: int) -> NDArray[np.int64]:
    ids = np.array(token_ids, dtype=np.int64)
    return ids[(ids >= 0) & (ids < vocab_size)]
