"""The program of rank 1 … n − 1: does what rank 0 says, with the same runner over its own slice of the model.

Reads commands from stdin and answers on stdout, as ``worker/team.py`` describes. Ends when stdin ends, wherever it is
just then: when the engine is closed, and when its process dies. Knows no scheduling, no sampling and no text.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from pathlib import Path
from typing import Any

import torch

from carrel.errors import CarrelError
from carrel.layers.parallel import ParallelGroup
from carrel.models.config import ModelConfig
from carrel.step import PendingBatch
from carrel.worker.follower_sampler import FollowerSampler
from carrel.worker.frames import Frames, IntArray
from carrel.worker.loader import load_chat_runner
from carrel.worker.model_runner import ChatRunner
from carrel.worker.process_group import ProcessGroup, join_store
from carrel.worker.rank import free_bytes, prepare_rank
from carrel.worker.step_limits import StepLimits
from carrel.worker.step_wire import StepReader

Inbox = queue.SimpleQueue[dict[str, Any] | IntArray]
IN_FLIGHT = 1  # steps that stay in work while the next one is launched, as at rank 0


class Follower:
    """One rank's models, in the order in which they were loaded."""

    def __init__(self, frames: Frames, inbox: Inbox, group: ParallelGroup, device: torch.device) -> None:
        self._frames, self._inbox, self._group, self._device = frames, inbox, group, device
        self._runners: list[ChatRunner] = []
        self._readers: list[StepReader] = []
        self._pending: deque[PendingBatch] = deque()

    def run(self) -> None:
        """Until this process is ended."""
        while True:
            message = self._inbox.get()
            if isinstance(message, dict):
                self._obey(message)
            else:
                self._step(message)

    def _obey(self, message: dict[str, Any]) -> None:
        command = message["do"]
        if command == "release":
            model = message["model"]
            self._runners[model].release(self._readers[model].release(message["handles"]))
            return
        if command == "load":
            self._load(message)
            self._frames.send({})
            return
        runner = self._runners[message["model"]]
        answer: dict[str, Any] = {}
        if command == "allocate":
            runner.allocate_kv_cache(message["num_blocks"])
        else:
            limits, eager = StepLimits(**message["limits"]), message["enforce_eager"]
            if command == "measure":
                answer["free"] = free_bytes(self._device)
                answer["measured"] = runner.measured_bytes(limits, enforce_eager=eager)
            else:
                assert command == "prepare", f"there is no command {command}"
                prepare_rank(runner, limits, enforce_eager=eager)
        self._frames.send(answer)

    def _load(self, message: dict[str, Any]) -> None:
        folder = Path(message["folder"])
        runner = load_chat_runner(
            folder, ModelConfig.from_folder(folder), device=str(self._device), group=self._group, **message["options"]
        )
        runner.sampler = FollowerSampler()
        self._runners.append(runner)
        self._readers.append(StepReader())

    def _step(self, numbers: IntArray) -> None:
        model = int(numbers[0])
        self._pending.append(self._runners[model].submit(self._readers[model].read(numbers)))
        while len(self._pending) > IN_FLIGHT:
            self._pending.popleft().wait()


def _own_pipes() -> Frames:
    """stdin and stdout for messages alone: what else is printed goes to stderr, and nobody else reads stdin."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return Frames(incoming, outgoing)


def _read_all(frames: Frames, inbox: Inbox) -> None:
    """A thread of its own, so that the end of stdin ends the process also in the middle of a collective."""
    while (message := frames.read()) is not None:
        inbox.put(message)
    os._exit(0)


def join(frames: Frames, inbox: Inbox) -> Follower:
    """Come together with the other ranks, as rank 0 says."""
    hello = inbox.get()
    assert isinstance(hello, dict), "the first message says who this rank is"
    store = join_store(hello["port"], hello["size"])
    frames.send({})
    inbox.get()  # rank 0 waits until all are there
    device = torch.device(hello["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)  # this process is the rank's own
    return Follower(frames, inbox, ProcessGroup(store, hello["rank"], hello["size"], device), device)


def main() -> None:
    """Run one rank."""
    frames, inbox = _own_pipes(), Inbox()
    threading.Thread(target=_read_all, args=(frames, inbox), daemon=True).start()
    try:
        join(frames, inbox).run()
    except BaseException as error:
        frames.send({"error": str(error) if isinstance(error, CarrelError) else repr(error)})
        raise


if __name__ == "__main__":
    main()
