"""SiLU·mul, the gate of a gated MLP: out[t, i] = silu(gate_up[t, i]) * gate_up[t, size + i], silu(x) = x / (1 + e^-x).

Source: Shazeer 2020, "GLU Variants Improve Transformer" (SwiGLU). One read of ``gate_up``, one write of ``out``: bound
by bandwidth, 3 * num_tokens * size elements. Twin: ``reference.silu_and_mul``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase

BLOCK = 1024


@triton.jit
def _silu_mul_kernel(gate_up, out, gate_up_stride, size, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)  # token * stride can pass 2^31
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    row = gate_up + token * gate_up_stride
    gate = tl.load(row + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(row + size + column, mask=mask, other=0.0).to(tl.float32)
    # the twin rounds silu(gate) to the dtype before the product; so does this
    activated = (gate * tl.sigmoid(gate)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + token * size + column, (activated * up).to(out.dtype.element_ty), mask=mask)


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for ``gate_up`` [..., 2 * size] → [..., size]; the rows of ``gate_up`` may lie apart."""
    size = gate_up.shape[-1] // 2
    rows = gate_up.reshape(-1, 2 * size)
    assert rows.stride(1) == 1, "a row lies in one piece"
    out = torch.empty((rows.shape[0], size), dtype=gate_up.dtype, device=gate_up.device)
    if out.numel():
        grid = (rows.shape[0], triton.cdiv(size, BLOCK))
        _silu_mul_kernel[grid](rows, out, rows.stride(0), size, BLOCK=BLOCK)
    return out.view(*gate_up.shape[:-1], size)


COMPILE_CASES = [
    CompileCase(
        name=f"{dtype} {'aligned' if hint else 'any size'}",
        kernel=_silu_mul_kernel,
        signature={
            "gate_up": f"*{dtype}:16",
            "out": f"*{dtype}:16",
            "gate_up_stride": f"i32{hint}",
            "size": f"i32{hint}",
        },
        constexprs={"BLOCK": BLOCK},
    )
    for dtype in ("bf16", "fp16")
    for hint in (":16", "")
]
