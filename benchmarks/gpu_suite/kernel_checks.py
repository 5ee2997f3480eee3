"""Every kernel against its fp32 twin on this device, and the speed of some of them.

On a GPU in bf16 at the sizes of real models; on a CPU, where Triton interprets, in fp32 and fp16 at small ones.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gpu_suite.check_case import CaseSet, CheckCase, compare
from gpu_suite.section import Context
from gpu_suite.timing import median_seconds

TESTS = Path(__file__).resolve().parents[2] / "tests" / "kernels"
CASES = {  # kernel file → module here with a function of the same name that gives its cases
    "paged_attention": "cases_attention",
    "prefill_attention": "cases_attention",
    "varlen_attention": "cases_attention",
    "rms_norm": "cases_elementwise",
    "layer_norm": "cases_elementwise",
    "silu_mul": "cases_elementwise",
    "rope_store": "cases_elementwise",
    "pooling": "cases_elementwise",
    "sampling": "cases_sampling",
    "thresholds": "cases_sampling",
    "penalties": "cases_sampling",
    "logprobs": "cases_sampling",
    "token_bitmask": "cases_sampling",
    "weight_only_gemm": "cases_gemm",
    "dequantize": "cases_gemm",
    "quantize_rows": "cases_gemm",
}

MakeCases = Callable[[torch.device, torch.dtype, CaseSet], Iterator[CheckCase]]


def cases_of(kernel: str) -> MakeCases | None:
    """``cases(device, dtype, wanted)`` of a kernel file; None if nobody has written any."""
    if kernel not in CASES:
        return None
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))  # the makers of inputs that the kernels' tests use
    make: MakeCases = getattr(importlib.import_module(f"gpu_suite.{CASES[kernel]}"), kernel)
    return make


def check(context: Context, kernel: str) -> None:
    """A check for each case; cases after one that raises still run, unless the device is lost."""
    make = cases_of(kernel)
    if make is None:
        context.check("has check cases in benchmarks/gpu_suite", passed=False)
        return
    device = torch.device(context.options.device)
    dtypes = [torch.bfloat16] if device.type == "cuda" else [torch.float32, torch.float16]
    with torch.inference_mode():
        for dtype in dtypes:
            for case in make(device, dtype, "full" if device.type == "cuda" else "tiny"):
                if context.remaining < 1.0:
                    context.note("not all cases were checked: no time left")
                    return
                _check(context, case, device)


def _check(context: Context, case: CheckCase, device: torch.device) -> None:
    name = f"{case.name} {str(case.dtype).removeprefix('torch.')}"
    try:
        verdict = compare(case, device)
    except Exception:  # a kernel that does not compile or launch: a verdict like any other
        context.check(name, passed=False, error=traceback.format_exc()[-1500:])
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # raises when the device is lost: the worker then ends
        return
    error, worst = float(f"{verdict.error:.2e}"), float(f"{verdict.worst_element:.2e}")
    context.check(name, verdict.passed, error=error, worst_element=worst, disagreeing=verdict.disagreeing)


def measure(context: Context) -> None:
    """The speed of the kernels that the engine's time goes into. On a CPU there is nothing to measure."""
    device = torch.device(context.options.device)
    if device.type != "cuda":
        context.note("kernels are timed on a CUDA device only")
        return
    with torch.inference_mode():
        for kernel in CASES:
            make = cases_of(kernel)
            assert make is not None, "every entry of CASES has cases"
            try:
                for case in make(device, torch.bfloat16, "timed"):
                    _time(context, kernel, case, device)
            except Exception:  # the others are timed all the same
                context.note(f"{kernel} not timed: {traceback.format_exc()[-600:]}")
                torch.cuda.synchronize(device)


def _time(context: Context, kernel: str, case: CheckCase, device: torch.device) -> None:
    """As a node of a CUDA graph, which is how the engine's decode runs it; launched, where a graph cannot hold it."""
    run, how = _graph_of(case), "in a graph"
    if run is None:
        run, how = case.kernel, "launched"
    seconds = median_seconds(run, str(device), repeats=20)
    label, detail = f"{kernel}: {case.name}", f"{1e6 * seconds:.2f} µs {how}"
    if case.flops:
        context.row(label, case.flops / seconds / 1e12, "TFLOP/s", flops_per_unit=1e12, time=detail)
    else:
        context.row(label, case.moved_bytes / seconds / 1e9, "GB/s", bytes_per_unit=1e9, time=detail)


def _graph_of(case: CheckCase) -> Callable[[], object] | None:
    case.kernel()  # compiles
    graph = torch.cuda.CUDAGraph()
    try:
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            case.kernel()
    except RuntimeError:
        return None
    return graph.replay
