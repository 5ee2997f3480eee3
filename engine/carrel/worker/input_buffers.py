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
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carrel.worker.device_stream import DeviceStream, Event

IntArray = NDArray[np.signedinteger[Any]]
Arrays = Mapping[str, IntArray]
Tensors = Mapping[str, Tensor]

_WORD = 8  # bytes; the buffer is made of int64
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


def words_of(sections: Sequence[Section]) -> int:
    """Words of the buffer that ``sections`` take, one after the other."""
    return sum(section.num_words for section in sections)


@dataclass(slots=True)
class _Staging:
    host: Tensor  # pinned [capacity] int64
    copied: Event | None = None  # the device has read what lies in ``host``


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
        self.words = torch.zeros(self._reserved + capacity, dtype=torch.int64, device=stream.device)

    @property
    def capacity(self) -> int:
        return self._staging[0].host.numel()

    @property
    def first_word(self) -> int:
        """Index in ``words`` of the first number of the first section."""
        return self._reserved

    def stage(self, sections: Sequence[Section]) -> Arrays:
        """Arrays to fill before :meth:`upload`. Waits only if the device has not read the last but one upload yet."""
        assert words_of(sections) <= self.capacity, "a step is within the limits that the buffers were made for"
        staging = self._staging[self._next]
        if staging.copied is not None:
            staging.copied.wait()
        words: IntArray = staging.host.numpy()
        return {section.name: _array(words[at:end], section) for section, at, end in _places(sections)}

    def upload(self, sections: Sequence[Section]) -> Tensors:
        """Start the copy of what was staged last; work launched after this call sees it."""
        staging = self._staging[self._next]
        self._next = (self._next + 1) % len(self._staging)
        size = words_of(sections)
        self.words[self._reserved : self._reserved + size].copy_(staging.host[:size], non_blocking=True)
        staging.copied = self._stream.record()
        return self.views(sections)

    def views(self, sections: Sequence[Section]) -> Tensors:
        """Where these sections lie on the device."""
        words = self.words[self._reserved :]
        return {section.name: _tensor(words[at:end], section) for section, at, end in _places(sections)}


def _places(sections: Sequence[Section]) -> list[tuple[Section, int, int]]:
    """Each section with its first word and the word behind its last."""
    places, at = [], 0
    for section in sections:
        places.append((section, at, at + section.num_words))
        at += section.num_words
    return places


def _array(words: IntArray, section: Section) -> IntArray:
    return (words.view(np.int32) if section.narrow else words)[: section.size]


def _tensor(words: Tensor, section: Section) -> Tensor:
    return (words.view(torch.int32) if section.narrow else words)[: section.size]
