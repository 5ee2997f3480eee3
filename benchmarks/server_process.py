"""Servers as processes of their own: started, awaited, watched and ended. Linux tells the CPU time of each thread."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY = re.compile(r"ready at (http://\S+)")
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ServerProcess:
    """A server that is ready."""

    url: str
    pid: int

    def loop_seconds(self) -> float:
        """CPU seconds of its first thread, which runs the event loop."""
        return _cpu_seconds(Path(f"/proc/{self.pid}/task/{self.pid}/stat"))

    def process_seconds(self) -> float:
        """CPU seconds of all its threads."""
        return _cpu_seconds(Path(f"/proc/{self.pid}/stat"))


def _cpu_seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK  # user and system time


@contextmanager
def serving(arguments: Sequence[str], seconds: float = 120.0) -> Iterator[ServerProcess]:
    """``python arguments…`` until the block ends. It prints ``ready at URL`` when it serves."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "a pipe was asked for"
    try:
        deadline = time.monotonic() + seconds
        for line in process.stdout:
            if (match := READY.search(line)) is not None:
                break
            assert time.monotonic() < deadline, "the server does not become ready"
        else:
            raise RuntimeError("the server ended before it was ready")
        yield ServerProcess(match[1], process.pid)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def carrel(*models: str, flags: Sequence[str] = ()) -> list[str]:
    """Arguments of :func:`serving` for carrel."""
    return ["-m", "carrel_server", *models, "--port", "0", "--log-level", "warning", *flags]
