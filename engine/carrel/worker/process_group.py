"""A :class:`~carrel.layers.parallel.ParallelGroup` over torch.distributed: gloo between CPUs, NCCL between GPUs.

The backends are used directly, not through torch's default group: that is one for each process, and a process may host
several engines, or train something. All talk stays on this machine. Knows collectives; knows no processes, no models.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d  # torch.distributed names some of it, and exports less to type checkers

LOOPBACK = "127.0.0.1"
# Longer than any step. Who waits for a rank that is gone is set free by the team long before.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
JOIN_TIMEOUT = timedelta(minutes=2)  # all ranks are there before the first joins


def open_store(size: int) -> c10d.TCPStore:
    """Rank 0's meeting point, on a port that the system picks: ``store.port``.

    The socket is ours, since torch's own would listen to the whole network.
    """
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        return c10d.TCPStore(
            LOOPBACK,
            port,
            size,
            is_master=True,
            timeout=JOIN_TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )


def join_store(port: int, size: int) -> c10d.TCPStore:
    """The same place as the other ranks see it."""
    return c10d.TCPStore(LOOPBACK, port, size, is_master=False, timeout=JOIN_TIMEOUT, wait_for_workers=False)


class ProcessGroup:
    """One rank's end of the group. Blocks at construction until all ranks are there.

    On a GPU collectives are launched into the current stream's order and wait for nothing on the host, so that a CUDA
    graph can hold them.
    """

    def __init__(self, store: c10d.Store, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size = rank, size
        self._is_nccl = device.type == "cuda"
        with _nccl_settings() if self._is_nccl else nullcontext():
            self._backend: Any = (_nccl if self._is_nccl else _gloo)(store, rank, size)
            self.broadcast(torch.zeros(1, dtype=torch.int64, device=device))  # NCCL connects with the first call

    def all_reduce(self, x: Tensor) -> Tensor:
        options: Any = c10d.AllreduceOptions()
        options.asyncOp = False
        self._wait(self._backend.allreduce([x], options))
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty(self.size * x.shape[0], *x.shape[1:], dtype=x.dtype, device=x.device)
        options: Any = c10d.AllgatherOptions()
        options.asyncOp = False
        self._wait(self._backend._allgather_base(out, x, options))
        return out

    def broadcast(self, x: Tensor) -> Tensor:
        options: Any = c10d.BroadcastOptions()
        options.rootRank, options.rootTensor, options.asyncOp = 0, 0, False
        self._wait(self._backend.broadcast([x], options))
        return x

    def abort(self) -> None:
        """End what is under way, so that nobody waits for a rank that is gone. From any thread; the group is done.

        gloo needs no help: it sees the other end of its connections close.
        """
        if self._is_nccl:
            self._backend.abort()

    @staticmethod
    def _wait(work: Any) -> None:
        if work is not None:  # None: it is in the stream already
            work.wait()


def _gloo(store: c10d.Store, rank: int, size: int) -> Any:
    kind: Any = c10d.ProcessGroupGloo
    options = kind._Options()
    options._timeout = JOIN_TIMEOUT
    options._devices = [kind.create_device(hostname=LOOPBACK)]  # else it looks up the machine's name
    group = kind(store, rank, size, options)
    group._set_default_timeout(COLLECTIVE_TIMEOUT)
    return group


def _nccl(store: c10d.Store, rank: int, size: int) -> Any:
    kind: Any = c10d.ProcessGroupNCCL
    options = kind.Options()
    options._timeout = COLLECTIVE_TIMEOUT
    return kind(store, rank, size, options)


@contextmanager
def _nccl_settings() -> Iterator[None]:
    """Variables that are read when a group is made; they stand as before afterwards. Who sets one has his way.

    By default torch's watchdog ends the whole process when a rank is lost, where the team ends the engine; and NCCL's
    ranks meet on a network interface, where these are all on one machine.
    """
    wanted = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "NCCL_SOCKET_IFNAME": "lo"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
