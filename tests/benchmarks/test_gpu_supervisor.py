"""The run as a whole: whatever a section does, the others run, and what it had said is in the file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpu_suite.options import Options, parse_options
from gpu_suite.report import MAX_CHARACTERS, Report
from gpu_suite.section import Section
from gpu_suite.supervisor import Supervisor
from gpu_suite.worker import work

PROGRAM = """
import os, sys, time
sys.path.insert(0, {benchmarks!r})
from gpu_suite.options import parse_options
from gpu_suite.section import Section
from gpu_suite.worker import work

def row(context):
    context.row("a row", 2.0, "things/s")

def die(context):
    row(context)
    print("last words", flush=True)
    os._exit(9)

def sleep(context):
    context.check("before the sleep", True)
    time.sleep(60)

BODIES = {{"good": row, "raises": lambda context: 1 / 0, "dies": die, "hangs": sleep, "also good": row}}
options = parse_options()
sections = [Section(name=name, budget_seconds=9, run=BODIES[name]) for name in options.worker]
sys.exit(work(options, sections))
"""
NAMES = ["good", "raises", "dies", "hangs", "also good"]


def options(*arguments: str) -> Options:
    return parse_options(["--device", "cpu", *arguments])


def supervised(tmp_path: Path, names: list[str], *, slots: int = 1, budget: float = 60.0, each: float = 1.0) -> Report:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(benchmarks=str(Path(sys.modules["gpu_suite"].__file__ or "").parents[1])))
    report = Report(tmp_path / "out" / "report.json", {"commit": "abc"}, with_targets=True)
    sections = [Section(name=name, budget_seconds=each, run=lambda context: None, is_check=slots > 1) for name in names]
    given = options("--budget-seconds", str(budget))
    Supervisor(program, given, report, slots=slots).run(sections)
    report.save()
    return report


@pytest.mark.parametrize("slots", [1, 3])
def test_no_section_stops_another(tmp_path: Path, slots: int) -> None:
    report = supervised(tmp_path, NAMES, slots=slots)
    saved = json.loads(report.path.read_text(encoding="utf-8"))
    errors = {name: state["error"] for name, state in saved["sections"].items()}
    assert set(errors) == set(NAMES)
    assert errors["good"] is None and errors["also good"] is None
    assert "ZeroDivisionError" in errors["raises"]
    assert "status 9" in errors["dies"] and "last words" in errors["dies"]
    assert "cut off" in errors["hangs"]
    assert sorted(row["section"] for row in saved["rows"]) == ["also good", "dies", "good"]
    assert [check["name"] for check in saved["checks"]] == ["before the sleep"]
    assert set(report.failures) == {"raises", "dies", "hangs"}


def test_the_whole_run_has_an_end(tmp_path: Path) -> None:
    started = time.monotonic()
    report = supervised(tmp_path, ["hangs", "good"], budget=6.5, each=100.0)
    assert time.monotonic() - started < 15
    assert "cut off" in report.sections["hangs"]["error"]
    assert "not run" in report.sections["good"]["error"]


def test_a_device_that_fails_ends_the_process(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("gpu_suite.worker._clean_up", lambda device: False)
    ran = []
    sections = [Section(name=str(i), budget_seconds=1, run=lambda context: ran.append(context.section)) for i in (1, 2)]
    assert work(options(), sections) == 17
    assert ran == ["1"]
    assert "new process" in capsys.readouterr().out


def test_sections_by_parts_of_their_names() -> None:
    assert options("--only", "chat", "embed").wants("chat Qwen3-8B")
    assert not options("--only", "chat").wants("embed bge-m3")
    assert not options("--skip", "chat").wants("chat Qwen3-8B")
    assert options().wants("anything")


def report_of(tmp_path: Path, rows: list[dict[str, Any]], *, with_targets: bool = True) -> Report:
    report = Report(tmp_path / "r.json", {"commit": "abc", "device": "H200"}, with_targets=with_targets)
    for row in rows:
        whole = {"event": "row", "section": "s", "unit": "tokens/s", "bytes_per_unit": 0, "flops_per_unit": 0, **row}
        report.take(json.dumps({"detail": {}, **whole}))
    return report


def test_limits_targets_and_verdicts(tmp_path: Path) -> None:
    report = report_of(
        tmp_path,
        [
            {"name": "copy bandwidth", "value": 4000.0, "unit": "GB/s"},
            {"name": "GEMM bf16", "value": 800.0, "unit": "TFLOP/s"},
            {"name": "Qwen3-8B batch 1 decode", "value": 180.0, "bytes_per_unit": 16e9, "flops_per_unit": 16e9},
            {"name": "bge-m3 token ids", "value": 700_000.0, "flops_per_unit": 8e8},
        ],
    )
    decode, embed = report.as_json()["rows"][2:]
    assert decode["limit"] == pytest.approx(250.0)
    assert decode["share_of_limit"] == pytest.approx(0.72)
    assert (decode["target"], decode["verdict"]) == (190, "miss")
    assert embed["limit"] == pytest.approx(1e6)
    assert embed["verdict"] == "pass"
    assert "180.0 tokens/s         72%      190 miss" in report.table()


def test_tiny_runs_are_held_against_nothing(tmp_path: Path) -> None:
    report = report_of(tmp_path, [{"name": "Qwen3-8B batch 1 decode", "value": 1.0}], with_targets=False)
    assert report.as_json()["rows"][0]["verdict"] is None


def test_the_table_shows_failures_and_fits(tmp_path: Path) -> None:
    report = report_of(tmp_path, [{"name": f"row {index}", "value": 1e6} for index in range(300)])
    for index in range(100):
        detail = {"error": "Traceback\n  File x, line 1\nCompilationError: " + "long " * 200}
        check = {"event": "check", "section": "kernel k", "name": f"case {index}", "passed": False, "detail": detail}
        report.take(json.dumps(check))
    table = report.table()
    assert len(table) <= MAX_CHARACTERS
    assert "FAILED kernel k: case 0 CompilationError" in table
    assert "checks: 0 of 100 pass" in table
    assert "r.json" in table
    assert "row 299" in table
