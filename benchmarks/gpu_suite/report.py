"""All that the sections said: as a JSON file, saved after each of them, and as a table for people.

Knows ceilings, limits and targets. A row's limit is what the ceilings of the same run allow: bytes over the bandwidth
of a copy, or FLOP over the rate of a large product, whichever takes longer.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from gpu_suite.section import Event
from gpu_suite.targets import H200_TARGETS

COPY, GEMM = "copy bandwidth", "GEMM bf16"  # rows that are ceilings: GB/s and TFLOP/s
MAX_CHARACTERS = 12_000  # of the table
MAX_FAILURE = 300  # characters of one failure in the table; the file has all


class Report:
    """Collects events; ``path`` is written as often as asked."""

    def __init__(self, path: Path, header: dict[str, Any], *, with_targets: bool) -> None:
        self.path = path
        self.facts: dict[str, Any] = dict(header)
        self.rows: list[Event] = []
        self.checks: list[Event] = []
        self.notes: list[Event] = []
        self.profiles: list[Event] = []
        self.sections: dict[str, dict[str, Any]] = {}
        self._with_targets = with_targets
        self._lock = threading.Lock()
        self._started: dict[str, float] = {}

    # -- what comes in

    def take(self, line: str) -> Event:
        """One event of a worker. Workers may speak at the same time."""
        event: Event = json.loads(line)
        with self._lock:
            self._enter(event)
        return event

    def _enter(self, event: Event) -> None:
        kind, section = event["event"], event.get("section", "")
        if kind == "start":
            self._started[section] = time.monotonic()
        elif kind == "end":
            self._end(section, event["error"])
        elif kind == "facts":
            self.facts |= {key: value for key, value in event.items() if key != "event"}
        else:
            lists = {"row": self.rows, "check": self.checks, "note": self.notes, "profile": self.profiles}
            lists[kind].append(event)

    def fail(self, section: str, error: str) -> None:
        with self._lock:
            self._end(section, error)

    def _end(self, section: str, error: str | None) -> None:
        began = self._started.get(section)
        seconds = None if began is None else round(time.monotonic() - began, 1)
        self.sections[section] = {"seconds": seconds, "error": error}

    @property
    def failures(self) -> list[str]:
        """Names of failed checks and broken sections."""
        checks = [f"{check['section']}: {check['name']}" for check in self.checks if not check["passed"]]
        return checks + [name for name, state in self.sections.items() if state["error"]]

    # -- what goes out

    def save(self) -> None:
        """Write the file anew; a reader never sees half of it."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.as_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.path)

    def announce(self, section: str) -> None:
        """A line about a section that has ended, for who watches."""
        state = self.sections[section]
        verdicts = [check["passed"] for check in self.checks if check["section"] == section]
        checks = f", {sum(verdicts)} of {len(verdicts)} checks pass" if verdicts else ""
        seconds = "" if state["seconds"] is None else f"{state['seconds']:.1f} s"
        print(f"{section:<28} {seconds:>8}{checks}{', BROKEN' if state['error'] else ''}", flush=True)

    def as_json(self) -> dict[str, Any]:
        strip = [{key: value for key, value in check.items() if key != "event"} for check in self.checks]
        return {
            **self.facts,
            "rows": [self._judged(row) for row in self.rows],
            "checks": strip,
            "notes": [{"section": note["section"], "text": note["text"]} for note in self.notes],
            "sections": self.sections,
            "profiles": [{key: value for key, value in item.items() if key != "event"} for item in self.profiles],
        }

    def _judged(self, row: Event) -> dict[str, Any]:
        """A row with its share of the floor, and its target with the verdict."""
        target = H200_TARGETS.get(row["name"]) if self._with_targets else None
        judged = {key: value for key, value in row.items() if key not in ("event", "bytes_per_unit", "flops_per_unit")}
        judged["limit"] = self._limit(row)
        judged["share_of_limit"] = round(row["value"] / judged["limit"], 4) if judged["limit"] else None
        judged["target"] = target
        judged["verdict"] = None if target is None else ("pass" if row["value"] >= target else "miss")
        return judged

    def _limit(self, row: Event) -> float | None:
        """Units a second that the measured ceilings allow."""
        ceilings = {ceiling["name"]: ceiling["value"] for ceiling in self.rows}
        seconds = 0.0
        for need, name, scale in ((row["bytes_per_unit"], COPY, 1e9), (row["flops_per_unit"], GEMM, 1e12)):
            if need and name in ceilings:
                seconds = max(seconds, need / (ceilings[name] * scale))
        return 1.0 / seconds if seconds else None

    def table(self) -> str:
        """Failures, then figures, then a line of what matters most; at most ``MAX_CHARACTERS``."""
        blocks = [self._head(), *self._failure_lines(), *self._note_lines(), *self._row_lines(), *self._profile_lines()]
        text = "\n".join(blocks)
        if len(text) > MAX_CHARACTERS:
            cut = MAX_CHARACTERS // 2 - 40
            text = text[:cut] + f"\n… the rest is in {self.path.name} …\n" + text[-cut:]
        return text

    def _head(self) -> str:
        known = [f"{name} {self.facts[name]}" for name in ("device", "torch", "triton", "commit") if name in self.facts]
        passed = sum(check["passed"] for check in self.checks)
        seconds = sum(state["seconds"] or 0.0 for state in self.sections.values())
        run = f"{len(self.sections)} sections, {seconds:.0f} s"
        return f"{', '.join(known)}\nchecks: {passed} of {len(self.checks)} pass; {run}"

    def _failure_lines(self) -> list[str]:
        lines = [
            f"FAILED {check['section']}: {check['name']} {_short(_reason(check['detail']))}"
            for check in self.checks
            if not check["passed"]
        ]
        for name, state in self.sections.items():
            if state["error"]:
                lines.append(f"BROKEN {name}: {_short(_last_lines(state['error']))}")
        return lines

    def _note_lines(self) -> list[str]:
        return [f"note   {note['section']}: {_short(note['text'])}" for note in self.notes]

    def _row_lines(self) -> list[str]:
        lines = [f"{'':<44}{'figure':>12} {'unit':<11}{'of limit':>9}{'target':>9}"]
        for row in map(self._judged, self.rows):
            share = "" if row["share_of_limit"] is None else f"{row['share_of_limit']:.0%}"
            target = "" if row["target"] is None else f"{row['target']:,}"
            lines.append(
                f"{row['name']:<44}{_number(row['value']):>12} {row['unit']:<11}{share:>9}{target:>9} "
                f"{row['verdict'] or _parts(row['detail'])}".rstrip()
            )
        return lines

    def _profile_lines(self) -> list[str]:
        lines = []
        for profile in self.profiles:
            lines.append(f"profile {profile['name']}")
            lines += [
                f"  {item['share']:>6.1%} {item['count']:>7} {item['name'][:80]}" for item in profile["kernels"][:6]
            ]
        return lines


def _parts(detail: dict[str, Any]) -> str:
    """Of the host's time in a step."""
    names = ("schedule", "prepare", "launch", "wait", "update")
    return "  ".join(f"{name} {detail[name]:,.0f}" for name in names) if names[0] in detail else ""


def _reason(detail: dict[str, Any]) -> object:
    return _last_lines(detail["error"]) if isinstance(detail.get("error"), str) else detail


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= MAX_FAILURE else text[:MAX_FAILURE] + "…"


def _last_lines(error: str) -> str:
    """What a traceback says at its end, and where."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip(" ^~")]
    places = [line for line in lines if line.startswith("File ")]
    return " | ".join([*lines[-1:], *places[-1:]])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"
