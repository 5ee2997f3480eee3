"""What docs/kernels.md asks of every kernel and a program can check: files beside it, types, no synchronisation."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "engine" / "carrel" / "kernels"
REFERENCES = [importlib.import_module(f"carrel.kernels.{path.stem}") for path in KERNELS.glob("reference*.py")]
SYNCHRONISING = {"item", "tolist", "cpu", "numpy", "nonzero", "synchronize", "autotune", "heuristics"}
RUN_ALL = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv[1:] = []
    try:
        runpy.run_path(name, run_name="__main__")
    except SystemExit as stop:
        print(stop)
"""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def launched(path: Path) -> list[str]:
    """Functions that a grid launches: ``*_kernel``."""
    return [f.name for f in tree(path).body if isinstance(f, ast.FunctionDef) and f.name.endswith("_kernel")]


NOUNS = sorted(path.stem for path in KERNELS.glob("*.py") if launched(path))
TRITON_FILES = [path for path in sorted(KERNELS.glob("*.py")) if "import triton\n" in path.read_text(encoding="utf-8")]


def module(noun: str) -> ModuleType:
    return importlib.import_module(f"carrel.kernels.{noun}")


def launchers(noun: str) -> dict[str, FunctionType]:
    """Public plain functions of the module."""
    loaded = module(noun)
    return {
        name: value
        for name, value in vars(loaded).items()
        if isinstance(value, FunctionType) and value.__module__ == loaded.__name__ and not name.startswith("_")
    }


def test_there_is_something_to_check() -> None:
    assert "silu_mul" in NOUNS
    assert KERNELS / "silu_mul.py" in TRITON_FILES


@pytest.mark.parametrize("noun", NOUNS)
def test_a_kernel_has_a_test_a_benchmark_and_a_twin(noun: str) -> None:
    assert (ROOT / "tests" / "kernels" / f"test_{noun}.py").exists()
    assert (ROOT / "benchmarks" / "kernels" / f"bench_{noun}.py").exists()
    assert "twin" in (module(noun).__doc__ or "").lower(), "the docstring names the twin"
    assert module(noun).COMPILE_CASES


@pytest.mark.parametrize("noun", [path.stem for path in TRITON_FILES])
def test_launchers_have_types_and_the_signature_of_their_twins(noun: str) -> None:
    for name, launcher in launchers(noun).items():
        signature = inspect.signature(launcher)
        untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
        assert not untyped and signature.return_annotation is not signature.empty, f"{name}: {untyped}"
        twins = [vars(reference)[name] for reference in REFERENCES if name in vars(reference)]
        assert all(inspect.signature(twin) == signature for twin in twins), f"{name}: {signature}"


@pytest.mark.parametrize("path", TRITON_FILES, ids=lambda path: path.stem)
def test_nothing_synchronises_or_tunes_at_run_time(path: Path) -> None:
    """A CUDA graph can hold the launch, and the first request is as fast as the tenth."""
    used = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    assert used & SYNCHRONISING == set()


def test_only_kernels_import_triton() -> None:
    files = [path for path in (ROOT / "engine").rglob("*.py") if path not in TRITON_FILES]
    names = {
        (path.name, name.split(".")[0])
        for path in files
        for node in ast.walk(tree(path))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {file for file, name in names if name == "triton"} == set()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: the benchmarks would run")
def test_benchmarks_say_that_they_need_a_gpu() -> None:
    scripts = sorted(str(path) for path in (ROOT / "benchmarks" / "kernels").glob("bench_*.py"))
    arguments = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv.pop(1))" + RUN_ALL]
    finished = subprocess.run(
        [*arguments, str(ROOT / "benchmarks" / "kernels"), *scripts], capture_output=True, text=True, check=False
    )
    assert finished.stdout.count("torch finds none") == len(scripts), finished.stdout + finished.stderr
