"""``benchmarks/gpu.py`` as it is called, where torch, triton, safetensors and numpy are installed and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_suite.cuda_driver import has_cuda

ROOT = Path(__file__).resolve().parents[2]
# Python imports this first, in the program and in the processes that it starts.
NOTHING_ELSE = """
import sys
ALLOWED = {"torch", "torchgen", "functorch", "triton", "safetensors", "numpy"}
ALLOWED |= {"filelock", "fsspec", "mpmath", "networkx", "sympy", "typing_extensions"}  # what torch requires
ALLOWED |= {"carrel", "gpu_suite", "attention_cases", "sampling_cases", "usercustomize", "apport_python_hook"}

class Nothing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r} on the GPU machine", name=name)

sys.meta_path.insert(0, Nothing)
"""
SECTIONS = [
    "machine",
    "ceilings",
    "generation",
    "pooling",
    "silu_mul",
    "speed",
    "chat Qwen3-0.6B",
    "bge",
    "transformers",
]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one tiny run wrote, with the end of what it printed under "table"."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(NOTHING_ELSE)
    output = folder / "result.json"
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--device", "cpu", "--commit", "c0ffee"]
    command += ["--output", str(output), "--only", *SECTIONS, "--budget-seconds", "240"]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}engine"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert output.is_file(), done.stderr
    saved: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return {**saved, "table": done.stdout, "status": done.returncode, "stderr": done.stderr}


@pytest.mark.slow
def test_every_section_runs_and_every_check_passes(result: dict[str, Any]) -> None:
    assert {name: state["error"] for name, state in result["sections"].items() if state["error"]} == {}
    assert [check for check in result["checks"] if not check["passed"]] == []
    assert len(result["checks"]) > 30
    assert (result["status"], result["stderr"]) == (0, "")


@pytest.mark.slow
def test_the_file_says_where_and_what(result: dict[str, Any]) -> None:
    assert result["commit"] == "c0ffee"
    assert result["device"].startswith("cpu")
    assert {"torch", "triton", "transformers", "python", "command", "date"} <= set(result)


@pytest.mark.slow
def test_every_figure_is_there(result: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in result["rows"]}
    chat = (
        "batch 1 decode",
        "batch 8 end to end",
        "batch 8 decode",
        "8 mixed requests",
        "prefill",
        "first token of 64",
    )
    assert {f"Qwen3-0.6B {name}" for name in chat} <= set(rows)
    assert {"copy bandwidth", "GEMM bf16", "bge-m3 token ids", "bge-reranker-v2-m3 token ids"} <= set(rows)
    assert all(row["value"] > 0 for row in rows.values())
    host = rows["Qwen3-0.6B batch 1 host time a step"]["detail"]
    assert {"schedule", "prepare", "launch", "wait", "update", "steps"} <= set(host)
    assert host["schedule"] > 0 and host["update"] > 0 and host["steps"] > 0
    assert rows["Qwen3-0.6B batch 1 decode"]["share_of_limit"] > 0
    assert "Qwen3-0.6B prefill" in result["table"]


@pytest.mark.slow
def test_what_is_not_there_is_said(result: dict[str, Any]) -> None:
    notes = {note["section"]: note["text"] for note in result["notes"]}
    assert "not measured" in notes["embed bge-m3"]
    assert "not there" in notes["transformers"]


def test_help() -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "--budget-seconds" in done.stdout
    assert "torch" not in done.stderr


@pytest.mark.skipif(has_cuda(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
