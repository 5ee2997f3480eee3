"""One comparison of a kernel with its twin: the kernel in its dtype, the twin on the same numbers in fp32.

Knows tensors and errors; knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Outputs = Callable[[], tuple[Tensor, ...]]
# Which cases are wanted: small ones for Triton's interpreter, those of real models, or the few that are timed.
CaseSet = Literal["tiny", "full", "timed"]

# Norm of the difference over the norm of the twin's result. Operands and results are rounded to the dtype, whose unit
# roundoff is 2⁻⁹, 2⁻¹¹ and 2⁻²⁴; sums are in fp32.
TOLERANCE = {torch.bfloat16: 8e-3, torch.float16: 2e-3, torch.float32: 2e-5}
WORST_ELEMENT = 8.0  # times the tolerance, of the largest element: no single value may be far off


@dataclass(frozen=True, kw_only=True)
class CheckCase:
    """Attributes:
    name: e.g. ``"batch 256, context 200"``.
    kernel, twin: give the results to compare, tuples of tensors of equal shapes; integers must agree.
    dtype: of the kernel's inputs.
    agreeing: the share of integers that must be equal; sums in another order may tip a draw.
    moved_bytes, flops: that the formula takes at least; for the timed cases.
    """

    name: str
    kernel: Outputs
    twin: Outputs
    dtype: torch.dtype
    agreeing: float = 1.0
    moved_bytes: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    passed: bool
    error: float  # the largest of all outputs
    worst_element: float
    disagreeing: int  # integers that differ


def compare(case: CheckCase, device: torch.device) -> Verdict:
    """Run both and compare. Memory is poisoned before: what a kernel does not write is NaN."""
    expected = case.twin()
    poison(device)
    got = case.kernel()
    assert len(got) == len(expected), "kernel and twin give as many results"
    verdicts = [_verdict(case, a, b) for a, b in zip(got, expected, strict=True)]
    return Verdict(
        passed=all(verdict.passed for verdict in verdicts),
        error=max(verdict.error for verdict in verdicts),
        worst_element=max(verdict.worst_element for verdict in verdicts),
        disagreeing=sum(verdict.disagreeing for verdict in verdicts),
    )


def _verdict(case: CheckCase, got: Tensor, expected: Tensor) -> Verdict:
    if got.shape != expected.shape:
        return Verdict(passed=False, error=float("inf"), worst_element=float("inf"), disagreeing=got.numel())
    if not expected.is_floating_point():
        wrong = int((got != expected).sum())
        return Verdict(
            passed=wrong <= (1 - case.agreeing) * max(1, got.numel()), error=0.0, worst_element=0.0, disagreeing=wrong
        )
    got, expected = got.double(), expected.double()
    same = got == expected  # also infinities of one sign
    difference = torch.where(same, 0.0, (got - expected).abs())
    finite = torch.where(expected.isfinite(), expected, 0.0)
    error = float(difference.norm() / finite.norm().clamp_min(1e-12))
    worst = float(difference.max() / finite.abs().max().clamp_min(1e-12)) if got.numel() else 0.0
    limit = TOLERANCE[case.dtype]
    passed = error <= limit and worst <= WORST_ELEMENT * limit  # NaN passes neither
    return Verdict(passed=passed, error=error, worst_element=worst, disagreeing=0)


def poison(device: torch.device) -> None:
    """Leave NaN in the memory that the allocator will hand out next."""
    if device.type != "cuda":
        return
    sizes = [2**power for power in range(8, 29, 2)]
    held = [torch.full((size,), torch.nan, device=device) for size in sizes for _ in range(2)]
    del held


def outputs_of(function: Callable[..., Any], *arguments: Any, wide: bool = False, **options: Any) -> Outputs:
    """``function`` of these arguments; ``wide``: of fp32 copies of its tensors, as a twin gets them."""

    def run() -> tuple[Tensor, ...]:
        given = [in_fp32(each) if wide and isinstance(each, Tensor) else each for each in arguments]
        result = function(*given, **options)
        return result if isinstance(result, tuple) else (result,)

    return run


def in_fp32(tensor: Tensor) -> Tensor:
    """The twin's input: the same numbers in fp32; integers stay. Always a copy."""
    return tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
