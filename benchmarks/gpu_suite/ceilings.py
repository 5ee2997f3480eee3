"""What the machine can do at most: bytes copied, FLOP of large products, time of a tiny kernel in a graph.

Everything else is held against these. Random data throughout: zeros run faster.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from gpu_suite.report import COPY, GEMM
from gpu_suite.section import Context
from gpu_suite.timing import Work, median_seconds

TINY_KERNELS = 200  # in a graph, about those of a decode step of a small model


def measure(context: Context) -> None:
    device, tiny = context.options.device, context.options.tiny
    with torch.inference_mode():
        _copy(context, device, num_bytes=1 << (24 if tiny else 32))
        _products(context, device, size=256 if tiny else 8192)
        _decode_product(context, device, rows=64 if tiny else 4096, inner=64 if tiny else 12_288)
        if device.startswith("cuda"):
            _fp8_product(context, device, size=8192)
            _tiny_kernels(context, device)
            _round_trip(context, device)


def _copy(context: Context, device: str, num_bytes: int) -> None:
    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device)
    context.row(COPY, 2 * num_bytes / seconds / 1e9, "GB/s", num_bytes=num_bytes)


def _products(context: Context, device: str, size: int) -> None:
    a, b = _random(size, size, device), _random(size, size, device)
    seconds = median_seconds(lambda: a @ b, device)
    context.row(GEMM, 2 * size**3 / seconds / 1e12, "TFLOP/s", size=size)


def _decode_product(context: Context, device: str, rows: int, inner: int) -> None:
    """What batch-1 decode is made of: one row times a matrix; several in turn, so that none stays in the L2."""
    x = _random(1, inner, device)
    weights = [_random(rows, inner, device) for _ in range(4)]
    run = _in_graph(lambda: [torch.nn.functional.linear(x, weight) for weight in weights], device)
    seconds = median_seconds(run, device) / len(weights)
    num_bytes = 2.0 * rows * inner
    context.row("one row times a matrix", num_bytes / seconds / 1e9, "GB/s", rows=rows, inner=inner)


def _fp8_product(context: Context, device: str, size: int) -> None:
    a, b = (_random(size, size, device).to(torch.float8_e4m3fn) for _ in range(2))
    scale = torch.ones(size, 1, device=device)
    try:
        run = lambda: torch._scaled_mm(a, b.t(), scale, scale.t(), out_dtype=torch.bfloat16)  # noqa: E731
        seconds = median_seconds(run, device)
    except RuntimeError as error:
        context.note(f"fp8 product not measured: {error}")
        return
    context.row("GEMM fp8, a scale a row", 2 * size**3 / seconds / 1e12, "TFLOP/s", size=size)


def _tiny_kernels(context: Context, device: str) -> None:
    x = torch.ones(1024, device=device)
    run = _in_graph(lambda: [x.add_(1.0) for _ in range(TINY_KERNELS)], device)
    context.row("tiny kernel in a graph", 1e6 * median_seconds(run, device) / TINY_KERNELS, "µs")
    eager = median_seconds(lambda: [x.add_(1.0) for _ in range(TINY_KERNELS)], device)
    context.row("tiny kernel, launched", 1e6 * eager / TINY_KERNELS, "µs")


def _round_trip(context: Context, device: str) -> None:
    """Pinned numbers there, one kernel, the result back and waited for: the least that a step without overlap costs."""
    host = torch.zeros(1024, dtype=torch.int32).pin_memory()
    back = torch.zeros(1024, dtype=torch.int32).pin_memory()
    there = torch.zeros(1024, dtype=torch.int32, device=device)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        there.copy_(host, non_blocking=True)
        there.add_(1)
        back.copy_(there, non_blocking=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    context.row("host to device and back", 1e6 * sorted(times)[25], "µs")


def _in_graph(work: Work, device: str) -> Work:
    """``work`` as one graph launch on CUDA, itself elsewhere."""
    if not device.startswith("cuda"):
        return work
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _random(rows: int, columns: int, device: str) -> Tensor:
    return torch.randn(rows, columns, device=device, dtype=torch.bfloat16)
