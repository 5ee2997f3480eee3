"""Rank 0's runner of a model that several ranks compute: tells the others, then does the same itself.

Looks like any chat runner to the engine. Whatever fails in a shared step fails the team, since the ranks would not be
at the same place afterwards. Knows commands and steps; knows no processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from carrel.errors import InvalidParamsError
from carrel.models.config import ModelConfig
from carrel.models.sharding import share_of
from carrel.step import PendingBatch, RequestResult, ScheduledRequest
from carrel.worker.loader import load_chat_runner
from carrel.worker.model_runner import ChatRunner
from carrel.worker.rank import free_bytes, prepare_rank
from carrel.worker.step_limits import StepLimits
from carrel.worker.step_wire import StepWriter
from carrel.worker.team import SETUP_TIMEOUT, Team


class LeadRunner(ChatRunner):
    """``runner`` is this rank's, ``index`` the model's number in the team."""

    def __init__(self, runner: ChatRunner, team: Team, index: int) -> None:
        super().__init__(
            runner.config, runner.model, device=str(runner.device), dtype=runner.dtype, block_size=runner.block_size
        )
        self.is_asynchronous = runner.is_asynchronous
        self._runner, self._team, self._index = runner, team, index
        self._writer = StepWriter(index)

    def allocate_kv_cache(self, num_blocks: int) -> None:
        with self._team.at_work(SETUP_TIMEOUT):
            self._tell("allocate", num_blocks=num_blocks)
            self._runner.allocate_kv_cache(num_blocks)
            self._team.answers()

    def prepare(self, limits: StepLimits, *, enforce_eager: bool = False) -> None:
        """On all ranks. Raises EngineDeadError if not all of them could capture their graphs."""
        with self._team.at_work(SETUP_TIMEOUT):
            self._tell("prepare", limits=asdict(limits), enforce_eager=enforce_eager)
            prepare_rank(self._runner, limits, enforce_eager=enforce_eager)
            self._team.answers()

    def measured_bytes(self, limits: StepLimits, *, enforce_eager: bool = False) -> int | None:
        """The most that any rank takes, and what the fullest device has less than this one."""
        with self._team.at_work(SETUP_TIMEOUT):
            free = free_bytes(self.device)
            self._tell("measure", limits=asdict(limits), enforce_eager=enforce_eager)
            own = self._runner.measured_bytes(limits, enforce_eager=enforce_eager)
            answers = self._team.answers()
        if own is None:
            return None
        lack = free - min(answer["free"] for answer in answers) if self._index == 0 else 0  # once for all models
        most: int = max([own, *(answer["measured"] for answer in answers)])
        return most + max(0, lack)

    def submit(self, requests: list[ScheduledRequest]) -> PendingBatch:
        """
        Raises:
            EngineDeadError: the team has failed, or fails here.
        """
        with self._team.at_work():
            self._release(self._writer.forget_idle())
            self._team.tell_step(self._writer.write(requests))
            return _SharedStep(self._runner.submit(requests), self._team)

    def execute(self, requests: list[ScheduledRequest]) -> list[RequestResult]:
        return self.submit(requests).wait()

    def release(self, request_ids: Sequence[str]) -> None:
        self._release(self._writer.release(request_ids))
        self._runner.release(request_ids)

    def close(self) -> None:
        self._runner.close()
        super().close()

    def _release(self, handles: list[int]) -> None:
        if handles:
            self._tell("release", handles=handles)

    def _tell(self, command: str, **options: object) -> None:
        self._team.tell({"do": command, "model": self._index, **options})


@dataclass(slots=True)
class _SharedStep:
    """Implements :class:`carrel.step.PendingBatch`."""

    own: PendingBatch
    team: Team

    @property
    def runs_ahead(self) -> bool:
        return self.own.runs_ahead

    def wait(self) -> list[RequestResult]:
        with self.team.at_work():
            return self.own.wait()


def load_lead_runner(team: Team, folder: Path, config: ModelConfig, options: Mapping[str, Any]) -> LeadRunner:
    """Every rank loads its share at the same time. ``options`` are those of ``load_chat_runner``, plain data.

    Raises:
        ModelError: as of :func:`~carrel.worker.loader.load_runner`.
        InvalidParamsError: the model cannot be shared out among so many ranks.
        EngineDeadError: another rank could not load it; the message says why.
    """
    share_of(config, team.size)
    team.tell({"do": "load", "folder": str(folder.resolve()), "options": dict(options)})
    runner = load_chat_runner(folder, config, device=team.device, group=team.group, **options)
    team.answers()
    team.num_models += 1
    return LeadRunner(runner, team, team.num_models - 1)


def rank_devices(device: str, size: int) -> list[str]:
    """Where each rank computes: all on the CPU, or each on a GPU of its own, from ``device`` on.

    >>> rank_devices("cpu", 2)
    ['cpu', 'cpu']

    Raises:
        InvalidParamsError: there are not so many GPUs.
    """
    if not device.startswith("cuda"):
        return [device] * size
    first = int(device.partition(":")[2] or 0)
    num_gpus = torch.cuda.device_count()
    if first + size > num_gpus:
        raise InvalidParamsError(
            f"tensor_parallel_size={size} needs {size} GPUs from {device} on, and torch finds {num_gpus} in all; "
            "lower it, or use quantization to make the model smaller.",
            param="tensor_parallel_size",
        )
    return [f"cuda:{first + rank}" for rank in range(size)]
