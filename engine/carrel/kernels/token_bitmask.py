"""Tokens that may not be drawn become -inf, in place: one bit says for each token of a row whether it stays.

::

    x_i ← x_i     if bit i % 32 of word i // 32 is set, or x_i is NaN or +inf: a row that is not finite stays so
    x_i ← -inf    otherwise

Bound by one read of the row and one write of what is out. Twin: ``reference_sampling.mask_tokens``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase

BLOCK = 4096


@triton.jit
def _mask_kernel(logits, logits_stride, masks, rows, vocab_size, num_words, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + index)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < vocab_size
    words = tl.load(masks + index * num_words + offsets // 32, mask=inside, other=-1)
    stays = ((words >> (offsets % 32)) & 1) != 0
    x = tl.load(logits + row * logits_stride + offsets, mask=inside, other=0.0)
    sick = (x != x) | (x == float("inf"))
    out = tl.full((BLOCK,), float("-inf"), tl.float32)
    tl.store(logits + row * logits_stride + offsets, out, mask=inside & ~stays & ~sick)


def mask_tokens(logits: Tensor, masks: Tensor, rows: Tensor) -> None:
    """Mask ``n`` rows of ``logits`` [num_rows, vocab_size] fp32, in place.

    ``masks`` [n, ceil(vocab_size / 32)] int32, in one piece; ``rows`` [n] int64, all different.
    """
    vocab_size, num_words = logits.shape[1], masks.shape[1]
    assert logits.stride(1) == 1 and masks.is_contiguous(), "a row lies in one piece"
    assert num_words == triton.cdiv(vocab_size, 32), "one bit for each token"
    if rows.shape[0]:
        _mask_kernel[(rows.shape[0], triton.cdiv(vocab_size, BLOCK))](
            logits, logits.stride(0), masks, rows, vocab_size, num_words, BLOCK=BLOCK, num_warps=8
        )


COMPILE_CASES = [
    CompileCase(
        name="vocab_size=151936",
        kernel=_mask_kernel,
        signature={
            "logits": "*fp32:16", "logits_stride": "i32:16", "masks": "*i32:16", "rows": "*i64:16",
            "vocab_size": "i32:16", "num_words": "i32",
        },
        constexprs={"BLOCK": BLOCK},
        num_warps=8,
    )
]  # fmt: skip
