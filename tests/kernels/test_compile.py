"""Every kernel compiles for three GPUs without one: under this Python's Triton, and under Triton 3.6 where it is there.

``CARREL_TRITON36_PYTHON`` names a Python with Triton 3.6, torch and numpy; ``make test-kernels`` makes one and sets it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "compile_kernels.py"
CHECK_ONE = """
import sys
sys.path[:0] = [{scripts!r}, {tests!r}]
import compile_kernels
compile_kernels.triton_environment()
import broken_kernels
case = next(case for case in broken_kernels.COMPILE_CASES if case.name == {name!r})
result = compile_kernels.compile_case("broken_kernels", case, {capability})
print(*result.problems(case.needs_mma), sep="; ")
"""


def run_compiled(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that compiles: this one interprets, and ``@triton.jit`` decides between the two once."""
    environment = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "PYTHONPATH")}
    return subprocess.run([python, *arguments], env=environment, capture_output=True, text=True, check=False)


def assert_all_compile(python: str) -> None:
    finished = run_compiled(python, str(SCRIPT))
    bad = [line for line in finished.stdout.splitlines() if not line.endswith(" ok")]
    assert finished.returncode == 0, "\n".join(bad) + finished.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_with_this_triton() -> None:
    assert_all_compile(sys.executable)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_with_triton_3_6() -> None:
    python = os.environ.get("CARREL_TRITON36_PYTHON")
    if not python:
        pytest.skip("CARREL_TRITON36_PYTHON names no Python with Triton 3.6; `make test-kernels` makes one")
    finished = run_compiled(python, "-c", "import triton; print(triton.__version__)")
    assert finished.stdout.startswith("3.6."), f"{python} has Triton {finished.stdout or finished.stderr}"
    assert_all_compile(python)


@pytest.mark.parametrize(
    ("name", "capability", "problem"),
    [
        ("good", 90, ""),
        ("no matrix instruction", 80, "no matrix instruction"),
        ("shared memory", 90, "shared memory"),
        ("spills", 90, "spills"),
    ],
)
def test_the_script_sees_what_is_wrong(name: str, capability: int, problem: str) -> None:
    folders = {"scripts": str(SCRIPT.parent), "tests": str(Path(__file__).parent)}
    finished = run_compiled(sys.executable, "-c", CHECK_ONE.format(name=name, capability=capability, **folders))
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert finished.stdout.strip() == problem or (problem and problem in finished.stdout)
