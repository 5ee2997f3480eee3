"""One tile of attention with a running softmax: the step that every attention kernel of ours repeats over the keys.

For one row with logits s_j (in units of log2) and values v_j, after the tiles so far::

    top = max_j s_j        total = Σ_j 2^(s_j - top)        acc = Σ_j 2^(s_j - top) v_j        out = acc / total

A new tile first fades the sums by 2^(old top - new top). A row that has seen no key yet has top = -inf; the difference
of two such tops would be NaN, so that 0 stands in for it. Source: Milakov & Gimelshein 2018 (online softmax), Dao 2023
(FlashAttention-2). Twin: none; the kernels that use it have theirs. Knows no cache, no heads, no lengths.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634


@triton.jit
def attend_tile(acc, total, top, query, keys, values, scale, visible, MASKED: tl.constexpr, DOT_F32: tl.constexpr):
    """(acc, total, top) after one more tile.

    ``query`` [rows, dims], ``keys`` and ``values`` [tokens, dims] in one dtype; ``visible`` bool [rows, tokens], read
    when ``MASKED``. ``scale`` takes the product of a query and a key to log2 units. ``DOT_F32``: products in fp32, for
    fp32 inputs and for the interpreter; otherwise the matrix instructions of the inputs' dtype, which sum in fp32.
    """
    if DOT_F32:
        logits = tl.dot(query.to(tl.float32), tl.trans(keys.to(tl.float32)), input_precision="ieee") * scale
    else:
        logits = tl.dot(query, tl.trans(keys)) * scale
    if MASKED:
        logits = tl.where(visible, logits, float("-inf"))
    new_top = tl.maximum(top, tl.max(logits, 1))
    base = new_top
    if MASKED:
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(logits - base[:, None])
    fade = tl.exp2(top - base)
    total = total * fade + tl.sum(weights, 1)
    acc = acc * fade[:, None]
    if DOT_F32:
        acc = tl.dot(weights, values.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(weights.to(values.dtype), values, acc)
    return acc, total, new_top


@triton.jit
def inside(rows, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Mask of a tile [rows, BLOCK_D] from bool ``rows``; [rows, 1] where no dimension is padding."""
    mask = rows[:, None]
    if HEAD_DIM < BLOCK_D:
        mask = mask & (tl.arange(0, BLOCK_D) < HEAD_DIM)[None, :]
    return mask


def dots_in_fp32(query: Tensor) -> bool:
    """Whether a launch for ``query`` takes its products in fp32: fp32 inputs, and everything under the interpreter."""
    return query.dtype == torch.float32 or query.device.type == "cpu"


def block_of(size: int) -> int:
    """The power of two, 16 or more, that holds ``size``: what a side of ``tl.dot`` needs."""
    return max(16, 1 << (size - 1).bit_length())
