"""How a kernel is timed beside its twin on a GPU, and how a row is written: one JSON object a line.

Knows CUDA graphs, the bandwidth of a copy, and commit and versions of this run; knows no kernel. Two times a provider:
``cold_us`` with the L2 cache cleared before each run and the launch on the clock, ``graph_us`` as a node of a CUDA
graph, which is how the engine's decode step runs it. ``fraction_of_copy`` is the graph's GB/s over those of a large
copy; it passes 1 where everything fits into the L2 cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "engine"))  # a machine with a GPU needs no installation of carrel

import torch  # noqa: E402

Provider = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """One shape of one kernel.

    Attributes:
        name: e.g. ``"tokens=256 size=18944"``.
        providers: name → function that runs once; the first is the twin, the others must agree with it.
        moved_bytes: bytes that the formula reads and writes, each element once.
        flops: multiplications and additions of the formula; 0 where bandwidth alone counts.
        tolerance: largest |difference| to the twin, relative to the twin's largest value; None: not comparable.
    """

    name: str
    providers: dict[str, Provider]
    moved_bytes: int
    flops: int = 0
    tolerance: float | None = 2e-2


@cache
def environment() -> dict[str, str]:
    """Where and when: device, versions, commit."""
    import triton

    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # a machine without git
        found = ""
    return found or "unknown"


def cold_us(run: Provider) -> float:
    """Median microseconds with the L2 cache cleared before each run."""
    from triton.testing import do_bench

    return 1e3 * float(do_bench(run, warmup=10, rep=50, return_mode="median"))


def graph_us(run: Provider) -> float | None:
    """Median microseconds as a node of a CUDA graph; None for what a graph cannot hold."""
    from triton.testing import do_bench_cudagraph

    try:
        return 1e3 * float(do_bench_cudagraph(run, rep=20, return_mode="median"))
    except RuntimeError as error:
        print(f"# no CUDA graph: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


@cache
def copy_bandwidth() -> float:
    """GB/s, read and written, of a copy of 1 GiB: the ceiling of what only moves bytes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / cold_us(lambda: target.copy_(source)) * 1e-3


def difference(value: Any, twin: Any) -> float:
    """Largest |value - twin| over the largest |twin|, over all tensors of a result."""
    if isinstance(twin, tuple | list):
        return max(difference(a, b) for a, b in zip(value, twin, strict=True))
    largest = twin.float().abs().max().clamp_min(1e-12)
    return float((value.float() - twin.float()).abs().max() / largest)


def rows(kernel: str, case: BenchCase) -> Iterable[dict[str, Any]]:
    """One row a provider; a wrong result is a row with ``ok`` false, not an exception."""
    worsts = dict.fromkeys(case.providers, 0.0)
    if case.tolerance is not None:
        first = {provider: run() for provider, run in case.providers.items()}  # later runs may change what they read
        twin = next(iter(first.values()))
        worsts = {provider: difference(result, twin) for provider, result in first.items()}
    for provider, run in case.providers.items():
        try:
            graph, cold = graph_us(run), cold_us(run)
        except RuntimeError as error:  # torch has no such kernel for this GPU, say
            ours = provider.startswith("triton")
            yield {"kernel": kernel, "case": case.name, "provider": provider, "ok": not ours, "error": str(error)[:200]}
            continue
        worst = worsts[provider]
        best = graph or cold
        bandwidth = case.moved_bytes / best * 1e-3
        yield {
            "kernel": kernel,
            "case": case.name,
            "provider": provider,
            "ok": case.tolerance is None or worst <= case.tolerance,
            "difference": worst,
            "cold_us": round(cold, 2),
            "graph_us": None if graph is None else round(graph, 2),
            "gb_s": round(bandwidth, 1),
            "fraction_of_copy": round(bandwidth / copy_bandwidth(), 3),
            "tflop_s": round(case.flops / best * 1e-6, 1),
            **environment(),
        }


def main(kernel: str, cases: Callable[[torch.device], Iterable[BenchCase]]) -> None:
    """Run ``cases`` on the GPU, print each row, and append it to ``--out``. Exits with 1 when a result was wrong."""
    parser = argparse.ArgumentParser(description=f"Time the kernel {kernel} beside its twin on a GPU.")
    parser.add_argument(
        "--out", type=Path, help="append to this file of JSON lines, e.g. benchmarks/results/kernels.jsonl"
    )
    parser.add_argument("--case", default="", help="only cases whose name holds this text")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"The benchmark of {kernel} measures a CUDA GPU, and torch finds none on this machine.")
    wrong = 0
    with torch.inference_mode():
        for case in cases(torch.device("cuda")):
            if args.case not in case.name:
                continue
            for row in rows(kernel, case):
                line = json.dumps(row)
                print(line, flush=True)
                wrong += not row["ok"]
                if args.out:
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
    sys.exit(1 if wrong else 0)
