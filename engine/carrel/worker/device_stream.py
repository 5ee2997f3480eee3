"""A runner's own queue of work on its device: a CUDA stream, or on a CPU nothing, for there all is done at once.

Sets nothing process-wide: the stream is current only inside ``with stream.active()``, in the thread that says so. Knows
no models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Event:
    """A point in a stream."""

    def __init__(self, event: torch.cuda.Event | None) -> None:
        self._event = event

    def wait(self) -> None:
        """Block this thread until the device has come so far; other work of the device is not waited for."""
        if self._event is not None:
            self._event.synchronize()


class DeviceStream:
    """One for each runner. What is ``urgent`` gets free parts of the GPU before what is not."""

    def __init__(self, device: torch.device, *, urgent: bool = False) -> None:
        self.device = device
        self.stream: torch.cuda.Stream | None
        is_cuda = device.type == "cuda"
        self.stream = torch.cuda.Stream(device, priority=-urgent) if is_cuda else None  # type: ignore[no-untyped-call]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, torch and Triton launch into this stream, on this stream's device."""
        if self.stream is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            yield

    def record(self) -> Event:
        """The point behind all that was launched so far. Call while active."""
        if self.stream is None:
            return Event(None)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return Event(event)

    def synchronize(self) -> None:
        """Block until the device has done all that was launched so far."""
        if self.stream is not None:
            self.stream.synchronize()

    def join(self) -> None:
        """Work launched from now on comes after what other streams of the device have in work; for set-up alone."""
        if self.stream is not None:
            torch.cuda.synchronize(self.device)

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        """[size] in main memory, where the device can copy from and to without the CPU."""
        return torch.empty(size, dtype=dtype, pin_memory=self.stream is not None)

    def send(self, values: NDArray[Any]) -> Tensor:
        """A copy of ``values`` on the device, there before whatever is launched after this call."""
        host = torch.from_numpy(values)
        if self.stream is None:
            return host.clone()
        pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
        return pinned.copy_(host).to(self.device, non_blocking=True)

    def read_back(self, tensor: Tensor) -> Tensor:
        """A copy of ``tensor`` in main memory, complete when an event recorded after this call is reached."""
        if self.stream is None:
            return tensor.clone()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)
