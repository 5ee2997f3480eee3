"""LayerNorm with the residual addition: out[t] = (t - mean(t)) / sqrt(var(t) + eps) * weight + bias of one row of
t = x (+ residual).

Source: Ba, Kiros, Hinton 2016, "Layer Normalization". Mean and variance in fp32 over the sum as it is rounded to the
dtype; the variance from the centred values, which loses nothing to cancellation. Bound by bandwidth: two reads and one
write of a row with a residual. Twin: ``reference.layer_norm``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase
from carrel.kernels.rms_norm import MAX_SIZE, num_warps_for


@triton.jit
def _layer_norm_kernel(
    x,
    residual,
    weight,
    bias,
    out,
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
        value = value.to(out.dtype.element_ty).to(tl.float32)  # the twin adds in the dtype; so does this
    centred = tl.where(mask, value - tl.sum(value, 0) / size, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / size + eps)
    factor = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, (centred * scale * factor + shift).to(out.dtype.element_ty), mask=mask)


def layer_norm(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of ``x + residual`` [num_tokens, size]; ``residual`` None counts as zero. Rows may lie apart."""
    num_rows, size = x.shape
    other = x if residual is None else residual
    assert x.shape == other.shape and x.stride(1) == other.stride(1) == 1, "rows of one shape, each in one piece"
    assert size <= MAX_SIZE, "a row fits into one program"
    out = torch.empty((num_rows, size), dtype=x.dtype, device=x.device)
    if num_rows:
        block = triton.next_power_of_2(size)
        _layer_norm_kernel[(num_rows,)](
            x, other, weight, bias, out, x.stride(0), other.stride(0), size, eps,
            HAS_RESIDUAL=residual is not None, BLOCK=block, num_warps=num_warps_for(block),
        )  # fmt: skip
    return out


def _case(size: int, dtype: str, has_residual: bool) -> CompileCase:
    hint = ":16" if size % 16 == 0 else ""
    block = triton.next_power_of_2(size)
    return CompileCase(
        name=f"{dtype} size={size}{' residual' if has_residual else ''}",
        kernel=_layer_norm_kernel,
        signature={
            **dict.fromkeys(("x", "residual", "weight", "bias", "out"), f"*{dtype}:16"),
            **dict.fromkeys(("x_stride", "residual_stride", "size"), f"i32{hint}"),
            "eps": "fp32",
        },
        constexprs={"HAS_RESIDUAL": has_residual, "BLOCK": block},
        num_warps=num_warps_for(block),
    )


COMPILE_CASES = [
    *(_case(size, "bf16", residual) for size in (384, 768, 1024) for residual in (True, False)),
    _case(1024, "fp16", True),
    _case(1123, "bf16", True),
]
