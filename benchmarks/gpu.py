"""carrel on one GPU, in one call: every kernel against its fp32 twin, generation against eager, then the speed of all.

    PYTHONPATH=engine python benchmarks/gpu.py --output results.json

Needs torch, triton, transformers, safetensors and numpy, no checkpoint and no network: the models are random weights in
the shapes of well-known ones. Takes at most six minutes; see benchmarks/README.md for what each row means. Exits with 1
when a check failed, with 2 when there is no GPU.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "engine")]

from gpu_suite.cuda_driver import has_cuda  # noqa: E402
from gpu_suite.git import commit_of  # noqa: E402
from gpu_suite.options import Options, parse_options  # noqa: E402
from gpu_suite.report import Report  # noqa: E402
from gpu_suite.section import Section  # noqa: E402
from gpu_suite.sections import all_sections  # noqa: E402
from gpu_suite.supervisor import Supervisor  # noqa: E402
from gpu_suite.worker import work  # noqa: E402


def result_path(options: Options) -> Path:
    """``--output`` if that is a file's name, else a file in it named by the moment."""
    target = options.output or ROOT / "benchmarks" / "results"
    if target.suffix == ".json":
        return target
    return target / f"gpu-{datetime.now(UTC):%Y%m%d-%H%M%S}{'-tiny' if options.tiny else ''}.json"


def slots(options: Options) -> int:
    """Checks side by side: one for each core of a GPU machine, where compilation takes the time; in turn on a CPU."""
    return min(16, os.cpu_count() or 1) if options.device.startswith("cuda") else 1


def supervise(options: Options, sections: list[Section]) -> int:
    header = {
        "benchmark": "gpu",
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": options.commit or commit_of(ROOT),
        "tiny": options.tiny,
    }
    report = Report(result_path(options), header, with_targets=not options.tiny)
    try:
        Supervisor(Path(__file__), options, report, slots=slots(options)).run(sections)
    finally:
        report.save()
        print(report.table(), flush=True)
    return 1 if report.failures else 0


def main() -> int:
    options = parse_options()
    if options.worker:
        by_name = {section.name: section for section in all_sections(options.device)}
        return work(options, [by_name[name] for name in options.worker])
    if options.device.startswith("cuda") and not has_cuda():
        print("There is no CUDA device here. `--tiny --device cpu` tests the program itself.", file=sys.stderr)
        return 2
    return supervise(options, [section for section in all_sections(options.device) if options.wants(section.name)])


if __name__ == "__main__":
    sys.exit(main())
