"""Penalties and the min_tokens mask, applied wherever a logit is read: the logits themselves stay as they are.

With c the count of a token in the output, seen: in the prompt or the output::

    x ← clamp(x / repetition if x > 0 else x * repetition, ±1e30)     if seen and repetition ≠ 1
    x ← x - (frequency * c + presence)                                if c > 0
    x ← -inf                                                          if the token ends the text and it is too early

Source: Keskar et al. 2019, "CTRL" (repetition); OpenAI's API reference (presence, frequency). What was seen stands in a
token table [num_slots, vocab_size] of int16: ``sampling_rows.IN_PROMPT | ENDS_TEXT | c * OCCURS``. Costs a read of one
table row beside the read of the logits, and only for rows that have one. Twin: ``reference_sampling.penalised_logits``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels import sampling_rows as columns
from carrel.kernels.compile_case import CompileCase
from carrel.kernels.sampling_rows import SamplingRows

BLOCK = 2048
LARGEST = tl.constexpr(1e30)  # as in worker.penalties
PRESENCE = tl.constexpr(columns.PRESENCE)
FREQUENCY = tl.constexpr(columns.FREQUENCY)
REPETITION = tl.constexpr(columns.REPETITION)
MIN_LENGTH = tl.constexpr(columns.MIN_LENGTH)
SLOT = tl.constexpr(columns.SLOT)
POSITION = tl.constexpr(columns.POSITION)
IN_PROMPT = tl.constexpr(columns.IN_PROMPT)
ENDS_TEXT = tl.constexpr(columns.ENDS_TEXT)
OCCURS = tl.constexpr(columns.OCCURS)


@triton.jit
def penalise(x, seen, floats, barred):
    """``x`` and ``seen`` of some tokens of a row; ``floats`` points at the row's parameters; tokens with a bit of
    ``barred`` are out."""
    count = (seen // OCCURS).to(tl.float32)
    written = count > 0.0
    repetition = tl.load(floats + REPETITION)
    limit = tl.where(repetition != 1.0, LARGEST, float("inf"))
    repeated = tl.where(x > 0.0, x / repetition, x * repetition)
    x = tl.where(written | ((seen & IN_PROMPT) != 0), tl.minimum(tl.maximum(repeated, -limit), limit), x)
    x = tl.where(written, x - (tl.load(floats + FREQUENCY) * count + tl.load(floats + PRESENCE)), x)
    return tl.where((seen & barred) != 0, float("-inf"), x)


@triton.jit
def adjusted(raw, table, floats, ints, longs, row, offsets, mask, vocab_size, HAS_TABLE: tl.constexpr):
    """``raw`` fp32 logits of ``row`` at ``offsets`` with its penalties; -inf for NaN and +inf."""
    x = tl.where((raw != raw) | (raw == float("inf")), float("-inf"), raw)
    if HAS_TABLE:
        slot = tl.load(ints + row * 16 + SLOT).to(tl.int64)
        if slot >= 0:
            seen = tl.load(table + slot * vocab_size + offsets, mask=mask, other=0).to(tl.int32)
            too_early = tl.load(longs + row * 8 + POSITION) < tl.load(ints + row * 16 + MIN_LENGTH)
            x = penalise(x, seen, floats + row * 16, tl.where(too_early, ENDS_TEXT, 0))
    return x


@triton.jit
def load_adjusted(
    logits, logits_stride, table, floats, ints, longs, row, offsets, mask, vocab_size, HAS_TABLE: tl.constexpr
):
    """:func:`adjusted` of the logits at ``offsets``; -inf outside of ``mask``."""
    raw = tl.load(logits + row * logits_stride + offsets, mask=mask, other=float("-inf")).to(tl.float32)
    return adjusted(raw, table, floats, ints, longs, row, offsets, mask, vocab_size, HAS_TABLE=HAS_TABLE)


@triton.jit
def _penalised_kernel(
    logits, logits_stride, floats, ints, longs, table, out, vocab_size, BLOCK: tl.constexpr, HAS_TABLE: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < vocab_size
    x = load_adjusted(
        logits, logits_stride, table, floats, ints, longs, row, offsets, mask, vocab_size, HAS_TABLE=HAS_TABLE
    )
    tl.store(out + row * vocab_size + offsets, x, mask=mask)


def penalised_logits(logits: Tensor, rows: SamplingRows, table: Tensor) -> Tensor:
    """fp32 [num_rows, vocab_size]: what the sampler draws from, before temperature and filters.

    ``logits`` [num_rows, vocab_size]; ``table``
    [num_slots, vocab_size] int16.
    """
    num_rows, vocab_size = logits.shape
    assert logits.stride(1) == 1, "a row lies in one piece"
    out = torch.empty(num_rows, vocab_size, dtype=torch.float32, device=logits.device)
    grid = (num_rows, triton.cdiv(vocab_size, BLOCK))
    _penalised_kernel[grid](
        logits,
        logits.stride(0),
        rows.floats,
        rows.ints,
        rows.longs,
        table,
        out,
        vocab_size,
        BLOCK=BLOCK,
        HAS_TABLE=True,
    )
    return out


ROW_SIGNATURE = {
    "logits_stride": "i32:16",
    "floats": "*fp32:16",
    "ints": "*i32:16",
    "longs": "*i64:16",
    "table": "*i16:16",
    "vocab_size": "i32:16",
}

COMPILE_CASES = [
    CompileCase(
        name=f"{dtype} vocab_size=151936",
        kernel=_penalised_kernel,
        signature={"logits": f"*{dtype}:16", **ROW_SIGNATURE, "out": "*fp32:16"},
        constexprs={"BLOCK": BLOCK, "HAS_TABLE": True},
    )
    for dtype in ("bf16", "fp32")
]
