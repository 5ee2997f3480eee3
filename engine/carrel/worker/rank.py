"""What every rank does in the same way, the first one and those that follow."""

from __future__ import annotations

import torch

from carrel.errors import EngineDeadError
from carrel.worker.device_memory import cuda_memory
from carrel.worker.model_runner import ChatRunner
from carrel.worker.step_limits import StepLimits


def prepare_rank(runner: ChatRunner, limits: StepLimits, *, enforce_eager: bool) -> None:
    """As ``runner.prepare``, but one rank cannot choose to go on without CUDA graphs: its collectives would be others.

    Raises:
        EngineDeadError: the graphs could not be captured.
    """
    runner.prepare(limits, enforce_eager=enforce_eager)
    if runner.device.type == "cuda" and not enforce_eager and not runner.captured_sizes:
        raise EngineDeadError("CUDA graphs could not be captured on every rank; try enforce_eager=True.")


def free_bytes(device: torch.device) -> int:
    """Of a GPU; 0 for main memory, which all ranks share."""
    return cuda_memory(str(device))[0] if device.type == "cuda" else 0
