"""Every kernel's benchmark, one process after the other: a kernel that crashes the GPU's context stops no other.

    python benchmarks/kernels/run_all.py [--out benchmarks/results/kernels.jsonl] [--limit-s 300]

Knows which benchmarks there are and how long they may take; what they measure is theirs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch


def main() -> int:
    parser = argparse.ArgumentParser(description="Time every kernel beside its twin on a GPU.")
    parser.add_argument("--out", default="", help="append to this file of JSON lines")
    parser.add_argument("--limit-s", type=float, default=600.0, help="start no benchmark after so many seconds")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("The benchmarks of the kernels measure a CUDA GPU, and torch finds none on this machine.")
    started, failed = time.monotonic(), []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if time.monotonic() - started > args.limit_s:
            print(f"# {path.name}: not started, {args.limit_s:.0f} s are over", flush=True)
            continue
        command = [sys.executable, str(path), *(["--out", args.out] if args.out else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(path.name)
    if failed:
        print("# failed:", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
