"""Starts worker processes, cuts off what takes too long, and goes on with the rest. Loads no torch.

::

    supervisor   | worker 1: machine, ceilings, kernel a, kernel b ✗ killed | worker 2: kernel c, generation, … |
                       └ events ─ report (a JSON file after each section) ───┴──────────────────────────────────┴ table
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from gpu_suite.options import Options
from gpu_suite.report import Report
from gpu_suite.section import MARK, Section

LAST_WORDS = 4000  # characters of a dead worker's output that the report keeps
GRACE_SECONDS = 3.0  # beyond its budget, for a section that watches the clock itself
LEAST_SECONDS = 5.0  # with less left, nothing more is started


class Supervisor:
    def __init__(self, program: Path, options: Options, report: Report) -> None:
        self._program = program
        self._options = options
        self._report = report
        self._ends = time.monotonic() + options.budget_seconds

    @property
    def remaining(self) -> float:
        return self._ends - time.monotonic()

    def run(self, sections: list[Section]) -> None:
        """Run ``sections`` in as few processes as it takes."""
        waiting = list(sections)
        while waiting and self.remaining > LEAST_SECONDS:
            waiting = self._run_worker(waiting)
            self._report.save()
        for section in waiting:
            self._report.fail(section.name, "not run: the time of the whole run was over")

    def _run_worker(self, sections: list[Section]) -> list[Section]:
        """Run one process; return what it left undone."""
        process = self._start(sections)
        assert process.stdout is not None, "the worker's output is a pipe"
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        waiting, current, words = list(sections), "", ""
        deadline = time.monotonic() + sections[0].budget_seconds + 30.0  # the start of the process
        try:
            while True:
                limit = min(deadline, self._ends)
                line = lines.get(timeout=max(0.0, limit - time.monotonic()))
                if line is None:
                    break
                if not line.startswith(MARK):
                    words = (words + line)[-LAST_WORDS:]
                    continue
                event = self._report.take(line.removeprefix(MARK))
                if event["event"] == "start":
                    current, section = event["section"], waiting.pop(0)
                    deadline = time.monotonic() + section.budget_seconds + GRACE_SECONDS
                elif event["event"] == "end":
                    current, words = "", ""
                    self._report.save()
        except queue.Empty:
            reason = "cut off: the section took longer than its budget, or the whole run's time was over"
            self._report.fail(current or waiting.pop(0).name, f"{reason}\n{words}")
            return waiting
        finally:
            process.kill()
            process.wait()
        if current:
            self._report.fail(current, f"the process ended with status {process.returncode}\n{words}")
        elif waiting and len(waiting) == len(sections):
            self._report.fail(waiting.pop(0).name, f"the process did not start: {process.returncode}\n{words}")
        return waiting

    def _start(self, sections: list[Section]) -> subprocess.Popen[str]:
        options = self._options
        command = [sys.executable, str(self._program), "--device", options.device]
        command += ["--tiny"] if options.tiny else []
        command += ["--profile"] if options.profile else []
        command += ["--worker", *(section.name for section in sections)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        environment["TRITON_INTERPRET"] = "0" if options.device.startswith("cuda") else "1"
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )


def _read(pipe: IO[str], lines: queue.Queue[str | None]) -> None:
    """Pass the worker's output on; None at its end."""
    for line in pipe:
        lines.put(line)
    lines.put(None)
