"""The kernels' tests run on the CPU under Triton's interpreter, or on a GPU with ``TRITON_INTERPRET=0``.

``tests/conftest.py`` sets ``TRITON_INTERPRET=1`` before anything imports Triton: ``@triton.jit`` reads it when it
decorates, both our kernels and Triton's own library.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _compiled_too_early() -> list[str]:
    """Names of functions that ``@triton.jit`` decorated before the interpreter was asked for."""
    from triton.runtime.jit import JITFunction

    modules = {name: module for name, module in sys.modules.items() if name.startswith("carrel.kernels.")}
    modules["triton.language.standard"] = sys.modules["triton.language.standard"]
    return [
        f"{module_name}.{name}"
        for module_name, module in modules.items()
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
    ]


@pytest.fixture(scope="session", autouse=True)
def interpreter_guard() -> None:
    """Stop with one sentence when a kernel could not run here."""
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    early = _compiled_too_early() if INTERPRETED else []
    if early:
        pytest.exit(
            f"{early[0]} and {len(early) - 1} more were imported before TRITON_INTERPRET=1 was set", returncode=3
        )
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.exit("TRITON_INTERPRET=0 runs the kernels on a GPU, and torch finds none", returncode=3)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run: ``cpu`` under the interpreter, else ``cuda``."""
    return torch.device("cpu" if INTERPRETED else "cuda")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``dtype``: float32 and float16, and bfloat16 on a GPU (the interpreter computes it wrongly)."""
    if "dtype" in metafunc.fixturenames and not any(
        "dtype" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")
    ):
        dtypes = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
        metafunc.parametrize("dtype", dtypes, ids=[str(dtype).removeprefix("torch.") for dtype in dtypes])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """NumPy warns where a GPU quietly gives infinity or zero; "invalid value" (a new NaN) stays an error."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for what in ("overflow", "underflow", "divide by zero"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{what} encountered:RuntimeWarning"))
