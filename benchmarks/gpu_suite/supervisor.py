"""Starts worker processes, cuts off what takes too long, and goes on with the rest. Loads no torch.

::

    side by side   | worker: kernel a | worker: kernel b ✗ killed | worker: generation … |    what only checks
    in turn        | worker: ceilings, chat … ✗ the device fails | worker: the rest … |       what measures
                       └ events ─ report (a JSON file after each section) ─────────── table

Checks run side by side because most of their time is compilation on the host; a measurement has the machine to itself.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from gpu_suite.options import Options
from gpu_suite.report import Report
from gpu_suite.section import MARK, Section

LAST_WORDS = 4000  # characters of a dead worker's output that the report keeps
START_SECONDS = 60.0  # for a process to import torch and reach its first section, beside others that do the same
GRACE_SECONDS = 3.0  # beyond its budget, for a section that watches the clock itself
LEAST_SECONDS = 5.0  # with less left, nothing more is started


class Supervisor:
    """``slots``: processes side by side; with one, all sections are in turn in one process."""

    def __init__(self, program: Path, options: Options, report: Report, *, slots: int) -> None:
        self._program = program
        self._options = options
        self._report = report
        self._slots = slots
        self._ends = time.monotonic() + options.budget_seconds

    @property
    def remaining(self) -> float:
        return self._ends - time.monotonic()

    def run(self, sections: list[Section]) -> None:
        """Run ``sections``: those that may side by side, then the others in turn."""
        side_by_side = [section for section in sections if section.is_check] if self._slots > 1 else []
        with ThreadPoolExecutor(self._slots) as pool:
            for _ in pool.map(lambda section: self._run_all([section]), side_by_side):
                pass  # what a thread raises is raised here
        self._run_all([section for section in sections if section not in side_by_side])

    def _run_all(self, sections: list[Section]) -> None:
        """In as few processes as it takes."""
        waiting = list(sections)
        while waiting and self.remaining > LEAST_SECONDS:
            waiting = self._run_worker(waiting)
            self._report.save()
        for section in waiting:
            self._report.fail(section.name, "not run: the time of the whole run was over")

    def _run_worker(self, sections: list[Section]) -> list[Section]:
        """Run one process; return what it left undone."""
        process = self._start(sections, threads=4 if self._slots > 1 and sections[0].is_check else 0)
        assert process.stdout is not None, "the worker's output is a pipe"
        watch = _Watch(sections, self._report)
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            while True:
                limit = min(watch.deadline, self._ends)
                line = lines.get(timeout=max(0.0, limit - time.monotonic()))
                if line is None:
                    process.wait()
                    return watch.left_behind(f"the process ended with status {process.returncode}")
                watch.take(line)
        except queue.Empty:
            late = "cut off: the section took longer than its budget, or the whole run's time was over"
            return watch.left_behind(late)
        finally:
            process.kill()
            process.wait()
            reader.join(timeout=5.0)
            process.stdout.close()

    def _start(self, sections: list[Section], *, threads: int) -> subprocess.Popen[str]:
        """``threads`` of torch on the CPU, for processes side by side; 0: as many as it takes by itself."""
        options = self._options
        command = [sys.executable, str(self._program), "--device", options.device]
        command += ["--tiny"] if options.tiny else []
        command += ["--profile"] if options.profile else []
        command += ["--worker", *(section.name for section in sections)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        environment["TRITON_INTERPRET"] = "0" if options.device.startswith("cuda") else "1"
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )


class _Watch:
    """Where one worker stands, by what it said."""

    def __init__(self, sections: list[Section], report: Report) -> None:
        self._waiting = list(sections)
        self._report = report
        self._current: Section | None = None
        self._words = ""  # what is no event: warnings, and what a dying process says
        self.deadline = time.monotonic() + START_SECONDS

    def take(self, line: str) -> None:
        if not line.startswith(MARK):
            self._words = (self._words + line)[-LAST_WORDS:]
            return
        event = self._report.take(line.removeprefix(MARK))
        if event["event"] == "start":
            self._current, self._words = self._waiting.pop(0), ""
            assert self._current.name == event["section"], "sections run in their order"
            self.deadline = time.monotonic() + self._current.budget_seconds + GRACE_SECONDS
        elif event["event"] == "end":
            self._current = None
            self.deadline = time.monotonic() + START_SECONDS
            self._report.save()
            self._report.announce(event["section"])

    def left_behind(self, reason: str) -> list[Section]:
        """The process is no more: its section has failed, or it never came to one. What is still to do."""
        if self._current is None and not self._waiting:
            return []
        if self._current is None and "status 17" in reason:
            return self._waiting  # it ended between two sections because the device had failed
        failed = self._current or self._waiting.pop(0)
        self._report.fail(failed.name, f"{self._words}\n{reason}")
        self._report.announce(failed.name)
        return self._waiting


def _read(pipe: IO[str], lines: queue.Queue[str | None]) -> None:
    """Pass the worker's output on; None at its end."""
    for line in pipe:
        lines.put(line)
    lines.put(None)
