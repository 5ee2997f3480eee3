"""The inputs of a step on their way to the device: one pinned buffer, one copy, and the same names at both ends.

::

    host      | source ...... | positions ... | seq_lens .. | cu_seqlens_q .. |      numpy views, filled by the runner
                                     ↓ one copy, behind the steps in work
    device    | source ...... | positions ... | seq_lens .. | cu_seqlens_q .. |      tensor views, read by the model

Where a section lies depends only on the sizes of those before it, and the device's buffer never moves: the same sizes
give the same addresses, as a captured CUDA graph needs them. Knows no requests and no models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carrel.worker.device_stream import DeviceStream, Event

IntArray = NDArray[np.signedinteger[Any]]
Arrays = Mapping[str, IntArray]
Tensors = Mapping[str, Tensor]

_ALIGNMENT = 2  # words: addresses divisible by 16, so that Triton compiles each kernel once


class Section(NamedTuple):
    """``size`` numbers under one name; int64, or int32 if ``narrow``."""

    name: str
    size: int
    narrow: bool = False

    @property
    def num_words(self) -> int:
        words = -(-self.size // 2) if self.narrow else self.size
        return -(-words // _ALIGNMENT) * _ALIGNMENT


class Layout:
    """Sections one after the other. Compares by identity; keep and reuse the layouts of steps that come often."""

    def __init__(self, sections: Sequence[Section]) -> None:
        ends = list(accumulate((section.num_words for section in sections), initial=0))
        self.places = [(section, at, at + section.num_words) for section, at in zip(sections, ends[:-1], strict=True)]
        self.num_words = ends[-1]

    def first_word(self, name: str) -> int:
        """Where the section ``name`` begins."""
        return next(at for section, at, _ in self.places if section.name == name)


class _Ends(NamedTuple):
    """A layout in one pinned buffer and in the device's."""

    arrays: Arrays
    host: Tensor  # [num_words], pinned
    device: Tensor  # [num_words]
    tensors: Tensors


@dataclass(slots=True)
class _Staging:
    host: Tensor  # pinned [capacity] int64
    copied: Event | None = None  # the device has read what lies in ``host``
    kept: dict[Layout, _Ends] = field(default_factory=dict)


class InputBuffers:
    """A buffer on the device and as many pinned ones as steps may be in flight.

    ``capacity`` is in words of eight bytes. ``reserved`` words at the head of the device's buffer are never copied
    over: what stays on the device from step to step can lie beside what comes anew, and one gather reads both.
    """

    def __init__(self, stream: DeviceStream, capacity: int, *, reserved: int = 0, num_staging: int = 2) -> None:
        self._stream = stream
        self._reserved = -(-reserved // _ALIGNMENT) * _ALIGNMENT
        self._staging = [_Staging(stream.pinned(capacity, torch.int64)) for _ in range(num_staging)]
        self._next = 0
        self._staged: _Ends | None = None
        self.words = torch.zeros(self._reserved + capacity, dtype=torch.int64, device=stream.device)

    @property
    def capacity(self) -> int:
        return self._staging[0].host.numel()

    @property
    def first_word(self) -> int:
        """Index in ``words`` of the first number of the first section."""
        return self._reserved

    def stage(self, layout: Layout, *, keep: bool = False) -> Arrays:
        """Arrays to fill before :meth:`upload`. Waits only if the device has not read the last but one upload yet.

        ``keep``: steps of this layout come again, remember its views.
        """
        assert layout.num_words <= self.capacity, "a step is within the limits that the buffers were made for"
        staging = self._staging[self._next]
        if staging.copied is not None:
            staging.copied.wait()
        ends = staging.kept.get(layout)
        if ends is None:
            ends = self._ends(staging.host, layout)
            if keep:
                staging.kept[layout] = ends
        self._staged = ends
        return ends.arrays

    def upload(self) -> Tensors:
        """Start the copy of what was staged last; work launched after this call sees it."""
        staging, ends = self._staging[self._next], self._staged
        assert ends is not None, "stage comes first"
        self._next = (self._next + 1) % len(self._staging)
        ends.device.copy_(ends.host, non_blocking=True)
        staging.copied = self._stream.record()
        return ends.tensors

    def views(self, layout: Layout) -> Tensors:
        """Where these sections lie on the device."""
        words = self.words[self._reserved :]
        return {
            section.name: (words[at:end].view(torch.int32) if section.narrow else words[at:end])[: section.size]
            for section, at, end in layout.places
        }

    def _ends(self, host: Tensor, layout: Layout) -> _Ends:
        words: IntArray = host.numpy()
        arrays = {
            section.name: (words[at:end].view(np.int32) if section.narrow else words[at:end])[: section.size]
            for section, at, end in layout.places
        }
        size = layout.num_words
        return _Ends(arrays, host[:size], self.words[self._reserved : self._reserved + size], self.views(layout))
