"""How many CPU threads compute a step: all of them, or one where they would wait for each other longer than they work.

torch's number of threads belongs to the process, so the engine never sets it; ``carrel serve`` owns its process and
does. The limit was measured with the starter models on two cores (docs/log.md). Knows sizes; runs nothing.
"""

from __future__ import annotations

import torch

LEAST_WORK = 60_000_000  # products of a weight and a token; below, one thread is faster


class StepThreads:
    """The threads of one engine's steps. ``most`` is what torch was told when this was made; on a GPU nothing changes
    but the host's own small operators."""

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self._now = self.most

    def prepare(self, num_tokens: int, num_weights: int) -> None:
        """Before a step of ``num_tokens`` tokens on a model of ``num_weights`` weights, on the thread that computes."""
        wanted = 1 if num_tokens * num_weights < LEAST_WORK else self.most
        if wanted != self._now:
            torch.set_num_threads(wanted)  # 0.2 µs
            self._now = wanted
