"""The ranks beside this one: starts them, tells them what to do, notices when one is lost.

::

    rank 0, the engine's process                     rank 1 … n − 1, ``python -m carrel.worker.follower``
    Team ── stdin: commands and steps, in order ──→  reads, runs the same runner
         ←─ stdout: an answer to some commands ────
         ←─ collectives (ProcessGroup) ───────────→

A new interpreter runs a module by name, so nothing is forked or pickled, and the user's script or notebook is not
imported again. The pipes are the bond of life: a child whose stdin ends, ends itself; a child whose stdout ends is
lost. A lost rank, or a step that takes too long, fails the team for good: all children are ended, what waits for them
is set free, and who asked to be told is told. Knows processes; knows no models and no requests.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from carrel.errors import EngineClosedError, EngineDeadError
from carrel.worker.frames import Frames, IntArray
from carrel.worker.process_group import ProcessGroup, open_store

STEP_TIMEOUT = 300.0  # seconds: longer than any step, its kernels' compilation included
SETUP_TIMEOUT = 3600.0  # to compile kernels and capture graphs
CLOSE_TIMEOUT = 5.0
FOLLOWER = "carrel.worker.follower"

Message = dict[str, Any]


class Team:
    """``devices`` by rank, of which the first is this process's. Blocks until all are there.

    Raises:
        EngineDeadError: a rank could not be started; the message says why.
    """

    def __init__(self, devices: Sequence[str], *, step_timeout: float = STEP_TIMEOUT) -> None:
        self.size, self.device = len(devices), devices[0]
        self.num_models = 0  # loaded so far; each is known to the ranks by its number
        self._step_timeout = step_timeout
        self._lock = threading.Lock()  # guards the next four
        self._error: EngineDeadError | None = None
        self._listeners: list[Callable[[EngineDeadError], None]] = []
        self._closed = False
        self._deadline: float | None = None  # of what a thread is waiting for
        self._ended = threading.Event()
        self.group: ProcessGroup | None = None
        self._store = open_store(self.size)
        self._ranks = [_Rank(rank, self.size) for rank in range(1, self.size)]
        threads = [
            threading.Thread(target=self._listen, args=(rank,), name=f"carrel-rank-{rank.number}", daemon=True)
            for rank in self._ranks
        ]
        threads.append(threading.Thread(target=self._watch, name="carrel-rank-watch", daemon=True))
        self._threads = threads
        try:
            for thread in threads:
                thread.start()
            for rank in self._ranks:
                self._send(
                    rank,
                    {"port": self._store.port, "rank": rank.number, "size": self.size, "device": devices[rank.number]},
                )
            self.answers()  # they are there: only then is it safe to wait for them in a collective
            self.tell({"do": "join"})
            self.group = ProcessGroup(self._store, 0, self.size, torch.device(devices[0]))
        except BaseException:
            self.close()
            raise

    @property
    def process_ids(self) -> list[int]:
        """Of the other ranks, in their order."""
        return [rank.process.pid for rank in self._ranks]

    # -- commands

    def tell(self, message: Message) -> None:
        """To every rank, behind all that it was told before.

        Raises:
            EngineDeadError: the team has failed.
        """
        for rank in self._ranks:
            self._send(rank, message)

    def tell_step(self, numbers: IntArray) -> None:
        """As :meth:`tell`, for a message of :class:`~carrel.worker.step_wire.StepWriter`."""
        for rank in self._ranks:
            with self._failing(rank):
                rank.frames.send_step(numbers)

    def answers(self) -> list[Message]:
        """The next answer of each rank, in their order."""
        found: list[Message] = []
        for rank in self._ranks:
            answer = rank.answers.get()
            if answer is None:
                rank.answers.put(None)
                self.check()
                raise EngineClosedError("The engine is closed.")
            found.append(answer)
        return found

    # -- failure

    def check(self) -> None:
        """Raise the error of a team that has failed; a fresh one, for each is raised in a thread of its own."""
        if self._error is not None:
            raise EngineDeadError(str(self._error)) from self._error.__cause__

    def on_failure(self, listener: Callable[[EngineDeadError], None]) -> None:
        """Call ``listener``, from any thread, when the team fails; at once if it has."""
        with self._lock:
            self._listeners.append(listener)
            error = self._error
        if error is not None:
            listener(error)

    def fail(self, message: str, cause: BaseException | None = None) -> EngineDeadError:
        """End all ranks and tell the listeners; the first error stands. Returns the error that stands."""
        error = EngineDeadError(message)
        error.__cause__ = cause
        with self._lock:
            if self._error is not None or self._closed:
                return self._error or error
            self._error = error
            listeners = list(self._listeners)
        self._end_ranks(at_once=True)
        if self.group is not None:
            self.group.abort()
        for listener in listeners:
            listener(error)
        return error

    @contextlib.contextmanager
    def at_work(self, timeout: float | None = None) -> Iterator[None]:
        """Inside, this thread may wait for the other ranks; if that takes longer than a step may, the team fails.

        Whatever goes wrong inside fails the team: the ranks may have come to different places.
        """
        self.check()
        self._deadline = time.monotonic() + (timeout or self._step_timeout)
        try:
            yield
        except EngineDeadError:
            raise
        except Exception as error:
            raise self.fail(f"A step that several ranks share failed: {error!r}", error) from error
        finally:
            self._deadline = None
        self.check()

    def close(self) -> None:
        """End the ranks. Idempotent; after a failure too."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._end_ranks(at_once=self._error is not None)
        if self.group is not None and self._error is None:
            self.group.abort()
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(CLOSE_TIMEOUT)
        for rank in self._ranks:
            with contextlib.suppress(OSError):
                rank.frames.close()

    # -- inside

    def _send(self, rank: _Rank, message: Message) -> None:
        with self._failing(rank):
            rank.frames.send(message)

    @contextlib.contextmanager
    def _failing(self, rank: _Rank) -> Iterator[None]:
        self.check()
        try:
            yield
        except (OSError, ValueError) as error:  # a pipe that is broken, or closed
            raise self.fail(f"Rank {rank.number} is gone.", error) from error

    def _listen(self, rank: _Rank) -> None:
        """A thread for each rank."""
        message = "is gone"
        while isinstance(answer := rank.read(), dict):
            if "error" in answer:
                message = f"failed: {answer['error']}"
                break
            rank.answers.put(answer)
        self.fail(f"Rank {rank.number} {message}.")
        rank.answers.put(None)

    def _watch(self) -> None:
        """One more thread: a rank that ended although something holds its pipe open, and a step that takes too long."""
        while not self._ended.wait(1.0):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self.fail("A step takes too long; a rank hangs.")
            for rank in self._ranks:
                if rank.process.poll() is not None:
                    self.fail(f"Rank {rank.number} ended with code {rank.process.returncode}.")

    def _end_ranks(self, *, at_once: bool) -> None:
        for rank in self._ranks:
            rank.end(at_once=at_once)
        for rank in self._ranks:
            rank.wait()


class _Rank:
    """One child."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", FOLLOWER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(size),
            start_new_session=True,  # Ctrl-C is for the engine's process, which ends this one
        )
        assert self.process.stdin is not None and self.process.stdout is not None, "both are pipes"
        self.frames = Frames(self.process.stdout, self.process.stdin)

    def read(self) -> Message | IntArray | None:
        try:
            return self.frames.read()
        except (OSError, ValueError):
            return None

    def end(self, *, at_once: bool) -> None:
        if at_once:
            self.process.kill()
        with contextlib.suppress(OSError, ValueError):
            self.frames.hang_up()

    def wait(self) -> None:
        try:
            self.process.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _environment(size: int) -> dict[str, str]:
    """The child finds the same modules as this process, whatever was done to sys.path, and shares the CPU."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["PYTHONSAFEPATH"] = "1"  # and none that happen to lie in the current folder
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
    return environment
