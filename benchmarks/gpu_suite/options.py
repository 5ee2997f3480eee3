"""What one run of ``benchmarks/gpu.py`` was asked for. Knows the command line; knows no section and no torch."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

DESCRIPTION = "Check and measure carrel on one GPU: kernels, generation, speed beside its floors and targets."


@dataclass(frozen=True, kw_only=True)
class Options:
    device: str  # "cuda", "cuda:1", "cpu"
    tiny: bool  # models and workloads of a few seconds on a CPU: shows that everything runs, measures nothing
    profile: bool  # torch.profiler's top kernels beside each workload
    only: tuple[str, ...]  # parts of section names; empty: all sections
    skip: tuple[str, ...]
    budget_seconds: float  # of the whole run
    output: Path | None  # JSON file, or a folder for one named by date; None: benchmarks/results
    commit: str | None  # None: read from git, where there is one
    worker: tuple[str, ...]  # names of the sections that this very process runs; empty: it is the supervisor

    def wants(self, section: str) -> bool:
        """Whether ``section`` is asked for."""
        chosen = not self.only or any(part in section for part in self.only)
        return chosen and not any(part in section for part in self.skip)


def parse_options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models and workloads: a test of the program itself")
    parser.add_argument("--profile", action="store_true", help="add torch.profiler's top kernels of each workload")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="sections whose name holds one of these")
    parser.add_argument("--skip", nargs="+", default=[], metavar="PART", help="not those")
    parser.add_argument("--budget-seconds", type=float, default=345.0, help="of the whole run; sections get shares")
    parser.add_argument("--output", type=Path, help="JSON file or folder; default benchmarks/results")
    parser.add_argument("--commit", help="of this checkout, where the machine has no git")
    parser.add_argument("--worker", nargs="+", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    return Options(
        device=given.device,
        tiny=given.tiny,
        profile=given.profile,
        only=tuple(given.only),
        skip=tuple(given.skip),
        budget_seconds=given.budget_seconds,
        output=given.output,
        commit=given.commit,
        worker=tuple(given.worker),
    )
