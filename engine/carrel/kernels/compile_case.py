"""One way to compile a kernel without a GPU: which argument types, which constants, what the result must hold.

Knows no Triton: ``scripts/compile_kernels.py`` reads the cases and compiles them; docs/kernels.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CompileCase:
    """A kernel with the types of its arguments and the values of its constants, as one launch on a GPU has them.

    Attributes:
        name: what the table of results calls it, e.g. ``"head_dim=128 group=7"``.
        kernel: the ``@triton.jit`` function.
        signature: argument → type for every argument that is no constant: ``"*bf16"``, ``"i32"``, ``"*i64:16"``;
            ``:16`` says that the address or the number is divisible by 16, as launches find out by themselves.
        constexprs: argument → value for every ``tl.constexpr`` (and for an integer that is always 1, as launches do).
        num_warps: warps of 32 threads a program.
        num_stages: depth of the software pipeline over loads.
        needs_mma: the machine code must hold matrix instructions (``mma``, ``wgmma`` or ``tcgen05``).
        min_capability: older GPUs cannot run it, and nothing launches it there: 89 for fp8.

    >>> CompileCase(name="tiny", kernel=None, signature={"x": "*bf16:16"}, constexprs={"BLOCK": 64}).num_warps
    4
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    needs_mma: bool = False
    min_capability: int = 80
