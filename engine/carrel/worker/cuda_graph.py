"""Decode steps recorded once for each batch size and replayed: one launch instead of some hundred.

A step of n sequences runs in the graph of the next larger size; what is missing is padding. All graphs share one memory
pool, the largest is captured first, so that the smaller ones live in its memory. They share one result too: the hidden
states of the last replay, valid until the next.

Knows sizes, capture and replay; what is recorded is the runner's ``body``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from carrel.worker.device_stream import DeviceStream

logger = logging.getLogger(__name__)

Body = Callable[[], None]  # launches the work of one size; reads and writes tensors that stay where they are
WARM_UPS = 2  # the first compiles kernels and picks algorithms, the second allocates as the capture will


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes that get a graph, ascending: close together where padding is dear.

    >>> graph_sizes(40)
    [1, 2, 4, 8, 16, 24, 32, 40]
    >>> graph_sizes(300)[-4:]
    [256, 272, 288, 300]
    """
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, max_num_seqs + 1, 16)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


class Capture(Protocol):
    """Records work for replays."""

    def __call__(self, body: Body) -> Callable[[], None]:
        """Record ``body`` after warming up; the result replays it. Raises whatever the device says."""
        ...


class CudaCapture:
    """Captures into one pool, on the runner's stream, with the errors of this thread alone."""

    def __init__(self, stream: DeviceStream) -> None:
        assert stream.stream is not None, "graphs are CUDA's"
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Body) -> Callable[[], None]:
        with self._stream.active():
            for _ in range(WARM_UPS):
                body()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Not torch.cuda.graph(): that collects garbage and empties caches each time, minutes for all sizes.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                body()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the first error says what went wrong
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay


class DecodeGraphs:
    """The graphs of one chat model. Without any, :meth:`size_for` is always None."""

    def __init__(self) -> None:
        self._replays: dict[int, Callable[[], None]] = {}
        self._sizes: list[int] = []

    @property
    def sizes(self) -> list[int]:
        return list(self._sizes)

    def capture(self, sizes: Sequence[int], make_body: Callable[[int], Body], capture: Capture) -> None:
        """Record ``make_body(size)`` for every size, the largest first. If that fails, all steps run without graphs."""
        replays = dict(self._replays)
        gc.collect()  # or garbage may be freed in the middle of a capture, which CUDA does not allow
        for size in sorted(sizes, reverse=True):
            try:
                replays[size] = capture(make_body(size))
            except RuntimeError as error:  # of CUDA, out of memory too; a bug in the body is none
                logger.warning(
                    "CUDA graphs are off, decoding will be slower: the capture for %d sequences failed: %s", size, error
                )
                self.clear()
                return
        self._replays, self._sizes = replays, sorted(replays)

    def size_for(self, num_seqs: int) -> int | None:
        """The smallest graph that holds so many sequences; None if there is none."""
        index = bisect_left(self._sizes, num_seqs)
        return self._sizes[index] if index < len(self._sizes) else None

    def replay(self, size: int) -> None:
        """Launch the recorded step of that size."""
        self._replays[size]()

    def clear(self) -> None:
        """Give the graphs and their memory back."""
        self._replays, self._sizes = {}, []
