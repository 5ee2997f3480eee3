"""Kernels that are wrong on purpose: ``test_compile.py`` checks that the compiler script sees it."""

import triton
import triton.language as tl
from carrel.kernels.compile_case import CompileCase


@triton.jit
def _product_kernel(x, out, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr, USE_DOT: tl.constexpr):
    rows, inner, columns = tl.arange(0, M), tl.arange(0, K), tl.arange(0, N)
    a = tl.load(x + rows[:, None] * K + inner[None, :])
    b = tl.load(x + inner[:, None] * N + columns[None, :])
    if USE_DOT:  # noqa: SIM108 – a constexpr decides
        product = tl.dot(a, b)
    else:
        product = tl.sum(a[:, :, None].to(tl.float32) * b[None, :, :].to(tl.float32), axis=1)
    tl.store(out + rows[:, None] * N + columns[None, :], product)


def product(
    name: str, m: int, k: int, n: int, *, use_dot: bool = True, needs_mma: bool = False, num_warps: int = 4
) -> CompileCase:
    return CompileCase(
        name=name,
        kernel=_product_kernel,
        signature={"x": "*bf16:16", "out": "*fp32:16"},
        constexprs={"M": m, "K": k, "N": n, "USE_DOT": use_dot},
        num_warps=num_warps,
        needs_mma=needs_mma,
    )


COMPILE_CASES = [
    product("good", 64, 64, 64, needs_mma=True),
    product("no matrix instruction", 16, 16, 16, use_dot=False, needs_mma=True),
    product("shared memory", 64, 1024, 64, num_warps=16),
    product("spills", 256, 16, 512),
]
