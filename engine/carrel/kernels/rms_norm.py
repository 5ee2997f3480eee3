"""RMSNorm with the residual addition: out[t] = t / sqrt(mean(t²) + eps) * weight, t = x (+ residual) of one row.

Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization". The mean is taken in fp32, of the sum as it is
rounded to the dtype, since that is what the next layer adds to. Bound by bandwidth: two reads and two writes of a row
with a residual, one of each without. Twins: ``reference.rms_norm`` and ``reference.add_rms_norm``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase

MAX_SIZE = 32768  # a row stands in the registers of one program


@triton.jit
def _rms_norm_kernel(
    x,
    residual,
    weight,
    out,
    total,
    x_stride,
    residual_stride,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # row * stride can pass 2^31
    column = tl.arange(0, BLOCK)
    mask = column < size
    value = tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        value += tl.load(residual + row * residual_stride + column, mask=mask, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * size + column, rounded, mask=mask)
        value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    # the twin rounds to the dtype before the product with the weight; so does this
    normed = (value * scale).to(out.dtype.element_ty).to(tl.float32)
    factor = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, (normed * factor).to(out.dtype.element_ty), mask=mask)


def num_warps_for(block: int) -> int:
    """16 elements a thread: two loads of 16 bytes in flight.

    >>> num_warps_for(1024), num_warps_for(4096), num_warps_for(64)
    (2, 8, 1)
    """
    return min(max(block // 512, 1), 16)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of ``x`` [..., size] over its last dimension; the rows may lie apart."""
    rows = _rows(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(rows, None, weight, out, None, eps)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual) in one pass; both [..., size]."""
    assert x.shape == residual.shape, "a residual has the shape of what is added to it"
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(_rows(x), _rows(residual), weight, out, total, eps)
    return out, total


def _rows(x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    assert rows.stride(1) == 1, "a row lies in one piece"
    return rows


def _launch(
    rows: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, total: Tensor | None, eps: float
) -> None:
    num_rows, size = rows.shape
    assert size <= MAX_SIZE, "a row fits into one program"
    if not num_rows:
        return
    block = triton.next_power_of_2(size)
    other, sums = (rows, out) if residual is None or total is None else (residual, total)
    _rms_norm_kernel[(num_rows,)](
        rows, other, weight, out, sums, rows.stride(0), other.stride(0), size, eps,
        HAS_RESIDUAL=residual is not None, BLOCK=block, num_warps=num_warps_for(block),
    )  # fmt: skip


def _case(size: int, dtype: str, has_residual: bool) -> CompileCase:
    hint = ":16" if size % 16 == 0 else ""
    block = triton.next_power_of_2(size)
    return CompileCase(
        name=f"{dtype} size={size}{' residual' if has_residual else ''}",
        kernel=_rms_norm_kernel,
        signature={
            **dict.fromkeys(("x", "residual", "weight", "out", "total"), f"*{dtype}:16"),
            **dict.fromkeys(("x_stride", "residual_stride", "size"), f"i32{hint}"),
            "eps": "fp32",
        },
        constexprs={"HAS_RESIDUAL": has_residual, "BLOCK": block},
        num_warps=num_warps_for(block),
    )


COMPILE_CASES = [
    *(_case(size, "bf16", residual) for size in (896, 1024, 3584, 4096, 8192) for residual in (True, False)),
    _case(4096, "fp16", True),
    _case(1123, "bf16", True),
    _case(128, "bf16", False),
]
