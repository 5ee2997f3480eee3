"""Two ranks in one process, a thread each: what the team and the follower's process do, without processes."""

from __future__ import annotations

import contextlib
import queue
import threading
from pathlib import Path

import torch
from carrel.models.config import ModelConfig
from carrel.worker.cuda_runner import CudaChatRunner
from carrel.worker.follower import Follower
from carrel.worker.follower_sampler import FollowerSampler
from carrel.worker.lead_runner import LeadRunner
from carrel.worker.loader import load_chat_runner
from carrel.worker.process_group import ProcessGroup, join_store, open_store
from packed_ops import PackedOps, as_on_a_gpu

CPU = torch.device("cpu")


def two_groups() -> list[ProcessGroup]:
    """Both ends of a group of two."""
    store = open_store(2)
    ends: list[ProcessGroup] = []
    other = threading.Thread(target=lambda: ends.append(ProcessGroup(join_store(store.port, 2), 1, 2, CPU)))
    other.start()
    ends.append(ProcessGroup(store, 0, 2, CPU))
    other.join()
    return sorted(ends, key=lambda end: end.rank)


class Inbox:
    """Ends the thread that reads it when it is closed."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self.put = self._messages.put

    def get(self):
        message = self._messages.get()
        if message is None:
            raise SystemExit
        return message


class ThreadTeam:
    """Stands for ``carrel.worker.team.Team``."""

    size, device = 2, "cpu"

    def __init__(self) -> None:
        self.num_models = 0
        self.group, other = two_groups()
        self._inbox, self._answers = Inbox(), queue.SimpleQueue()
        self.follower = ThreadFollower(self, self._inbox, other, CPU)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        self.tell = self.tell_step = self._inbox.put
        self.send = self._answers.put  # for the follower: the team is its frames too

    def _follow(self) -> None:
        with contextlib.suppress(SystemExit):
            self.follower.run()

    def answers(self):
        return [self._answers.get(timeout=30)]

    def at_work(self, timeout=None):
        return contextlib.nullcontext()

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join(10)


def prepared_with(runner: CudaChatRunner, capture) -> CudaChatRunner:
    """Its graphs will be recorded by ``capture``."""
    prepare = runner.prepare
    runner.__dict__["prepare"] = lambda limits, *, enforce_eager: prepare(limits, capture=capture)
    return runner


class ThreadFollower(Follower):
    """With the GPU's runner, as :func:`lead_as_on_a_gpu` has it."""

    as_gpu = False
    capture = None

    @property
    def runners(self):
        return self._runners

    def _load(self, message) -> None:
        super()._load(message)
        if self.as_gpu:
            runner = as_on_a_gpu(self._runners[-1], PackedOps())
            runner.sampler = FollowerSampler()
            self._runners[-1] = prepared_with(runner, self.capture)


def lead_as_on_a_gpu(team: ThreadTeam, folder: Path, options: dict, capture) -> LeadRunner:
    """As ``load_lead_runner``, with the GPU's runner on both ranks."""
    team.follower.as_gpu, team.follower.capture = True, capture
    team.tell({"do": "load", "folder": str(folder), "options": options})
    config = ModelConfig.from_folder(folder)
    runner = as_on_a_gpu(load_chat_runner(folder, config, device="cpu", group=team.group, **options), PackedOps())
    assert isinstance(runner, CudaChatRunner)
    team.answers()
    return LeadRunner(prepared_with(runner, capture), team, 0)
