"""What ``benchmarks/gpu.py`` will check on a GPU: every kernel has cases, and they hold under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from gpu_suite.check_case import CheckCase, compare, outputs_of
from gpu_suite.kernel_checks import CASES, cases_of
from gpu_suite.sections import kernel_names

pytest.importorskip("triton", reason="Triton has no wheel for this platform")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what} encountered:RuntimeWarning")  # NumPy where a GPU quietly gives inf or 0
    for what in ("overflow", "underflow", "divide by zero")
]
CPU = torch.device("cpu")


def test_every_kernel_has_cases() -> None:
    assert set(kernel_names()) == set(CASES), "write cases in benchmarks/gpu_suite/cases_*.py and name them in CASES"


@pytest.mark.parametrize("kernel", sorted(CASES))
def test_the_cases_hold(kernel: str) -> None:
    make = cases_of(kernel)
    assert make is not None
    names = []
    with torch.inference_mode():
        for case in make(CPU, torch.float32, "tiny"):
            verdict = compare(case, CPU)
            assert verdict.passed, f"{case.name}: {verdict}"
            names.append(case.name)
    assert names and len(set(names)) == len(names)


def case(got: torch.Tensor, expected: torch.Tensor, **options: float) -> CheckCase:
    values = {"kernel": lambda: (got,), "twin": lambda: (expected,)}
    return CheckCase(name="case", dtype=torch.bfloat16, **values, **options)


def passes(got: torch.Tensor, expected: torch.Tensor, **options: float) -> bool:
    return compare(case(got, expected, **options), CPU).passed


def test_rounding_passes_and_errors_do_not() -> None:
    exact = torch.randn(4, 64)
    assert passes(exact.bfloat16(), exact)
    assert not passes(exact * 1.02, exact)
    wrong = exact.clone()
    wrong[2, 7] += 2.0
    assert not passes(wrong, exact), "one element far off"
    wrong[2, 7] = torch.nan
    assert not passes(wrong, exact), "one element not written"
    assert not passes(exact[:3], exact), "another shape"


def test_infinities_must_agree() -> None:
    exact = torch.tensor([[1.0, -torch.inf, 2.0]])
    assert passes(exact.clone(), exact)
    assert not passes(torch.tensor([[1.0, -1e30, 2.0]]), exact)


def test_integers_agree_up_to_a_share() -> None:
    exact = torch.arange(100)
    other = exact.clone()
    other[3] = 0
    assert passes(exact.clone(), exact)
    assert not passes(other, exact)
    assert passes(other, exact, agreeing=0.98)


def test_a_twin_gets_copies_in_fp32() -> None:
    given = torch.ones(3, dtype=torch.float16)
    (result,) = outputs_of(lambda x: x.mul_(2), given, wide=True)()
    assert result.dtype is torch.float32
    assert given.tolist() == [1.0, 1.0, 1.0]
