"""The benchmarks of the kernels, as far as they go without a GPU: the frame's rows, and the first case of each runs."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels"
NAMES = sorted(path.stem for path in FOLDER.glob("bench_*.py"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of benchmarks/kernels, with a clock that always says 5 µs."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    frame = importlib.import_module("_frame")

    def clock(run: Callable[[], object]) -> float:
        run()
        return 5.0

    monkeypatch.setattr(frame, "graph_us", clock)
    monkeypatch.setattr(frame, "cold_us", clock)
    monkeypatch.setattr(frame, "copy_bandwidth", lambda: 1000.0)
    monkeypatch.setattr(frame, "environment", lambda: {"device": "none"})
    return importlib.import_module


@pytest.mark.parametrize("name", NAMES)
def test_first_case_runs(name: str, load: Callable[[str], ModuleType]) -> None:
    bench = load(name)
    case = next(iter(bench.cases(torch.device("cpu"))))
    assert len(case.providers) > 1 and case.moved_bytes > 0
    for provider, run in case.providers.items():
        if provider.startswith(("twin", "triton")):  # torch's own may not run here
            run()


def adds(number: float) -> Callable[[], torch.Tensor]:
    """In place, like a kernel that changes its argument."""
    values = torch.ones(4)
    return lambda: values.add_(number)


def test_rows_say_what_is_wrong(load: Callable[[str], ModuleType]) -> None:
    frame = load("_frame")
    case = frame.BenchCase(
        name="in place",
        providers={"twin": adds(1.0), "triton": adds(1.0), "wrong": adds(1.5)},
        moved_bytes=5_000_000,
    )
    rows = list(frame.rows("adds", case))
    assert [row["ok"] for row in rows] == [True, True, False]
    assert rows[1]["gb_s"] == 1000.0
    assert rows[1]["fraction_of_copy"] == 1.0
