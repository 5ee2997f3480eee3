"""Log probability and rank of one token a row, of the raw logits: no [num_rows, vocab_size] softmax is written.

::

    logprob = x_token - log Σ exp(x_i)          rank = 1 + |{i : x_i > x_token}|

One pass over tiles (maximum, sum, count), one over what the tiles left. Bound by one read of the logits. The list of
the n best is ``torch.topk``'s. Twin: ``reference_sampling.token_logprobs``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels.compile_case import CompileCase

TILE = 4096


@triton.jit
def _tile_logprobs_kernel(
    logits, logits_stride, token_ids, rows, tile_max, tile_sum, tile_above, vocab_size, num_tiles, TILE: tl.constexpr
):
    index = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    row = tl.load(rows + index)
    offsets = tile * TILE + tl.arange(0, TILE)
    x = tl.load(logits + row * logits_stride + offsets, mask=offsets < vocab_size, other=float("-inf")).to(tl.float32)
    x = tl.where((x != x) | (x == float("inf")), float("-inf"), x)
    chosen = tl.load(logits + row * logits_stride + tl.load(token_ids + row)).to(tl.float32)
    best = tl.max(x, axis=0)
    total = tl.sum(tl.exp(x - tl.where(best == float("-inf"), 0.0, best)), axis=0)
    tl.store(tile_max + index * num_tiles + tile, best)
    tl.store(tile_sum + index * num_tiles + tile, total)
    tl.store(tile_above + index * num_tiles + tile, tl.sum((x > chosen).to(tl.int32), axis=0))


@triton.jit
def _row_logprobs_kernel(
    logits, logits_stride, token_ids, rows, tile_max, tile_sum, tile_above, logprobs, ranks, log_sums, num_tiles,
    TILES: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + index)
    tiles = tl.arange(0, TILES)
    mask = tiles < num_tiles
    maxima = tl.load(tile_max + index * num_tiles + tiles, mask=mask, other=float("-inf"))
    sums = tl.load(tile_sum + index * num_tiles + tiles, mask=mask, other=0.0)
    best = tl.max(maxima, axis=0)
    best = tl.where(best == float("-inf"), 0.0, best)
    total = tl.sum(sums * tl.exp(maxima - best), axis=0)
    log_sum = best + tl.log(tl.maximum(total, 1e-30))
    above = tl.sum(tl.load(tile_above + index * num_tiles + tiles, mask=mask, other=0), axis=0)
    chosen = tl.load(logits + row * logits_stride + tl.load(token_ids + row)).to(tl.float32)
    tl.store(log_sums + index, log_sum)
    tl.store(logprobs + index, chosen - log_sum)
    tl.store(ranks + index, above.to(tl.int64) + 1)


def token_logprobs(logits: Tensor, token_ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log probabilities fp32, ranks int64 from 1, log of the sums fp32), each [n], of n rows.

    ``logits`` [num_rows, vocab_size] of any float dtype; ``token_ids`` [num_rows] int64; ``rows`` [n] int64, which rows
    ask. A logit minus its row's log of the sum is that token's log probability.
    """
    count, vocab_size = rows.shape[0], logits.shape[1]
    assert logits.stride(1) == 1, "a row lies in one piece"
    num_tiles = triton.cdiv(vocab_size, TILE)
    tile_max, tile_sum, logprobs, log_sums = (
        torch.empty(shape, dtype=torch.float32, device=logits.device)
        for shape in ((count, num_tiles), (count, num_tiles), (count,), (count,))
    )
    tile_above = torch.empty(count, num_tiles, dtype=torch.int32, device=logits.device)
    ranks = torch.empty(count, dtype=torch.int64, device=logits.device)
    if count:
        tiles = (logits, logits.stride(0), token_ids, rows, tile_max, tile_sum, tile_above)
        _tile_logprobs_kernel[(count, num_tiles)](*tiles, vocab_size, num_tiles, TILE=TILE)
        _row_logprobs_kernel[(count,)](
            *tiles, logprobs, ranks, log_sums, num_tiles, TILES=triton.next_power_of_2(num_tiles)
        )
    return logprobs, ranks, log_sums


def _case(kernel: triton.runtime.JITFunction, dtype: str) -> CompileCase:
    known = {
        "logits": f"*{dtype}:16", "logits_stride": "i32:16", "token_ids": "*i64:16", "rows": "*i64:16",
        "tile_max": "*fp32:16", "tile_sum": "*fp32:16", "tile_above": "*i32:16", "logprobs": "*fp32:16",
        "ranks": "*i64:16", "log_sums": "*fp32:16", "vocab_size": "i32:16", "num_tiles": "i32",
    }  # fmt: skip
    constants = {"TILE": TILE, "TILES": 64}
    return CompileCase(
        name=f"{kernel.__name__.strip('_')} {dtype}",
        kernel=kernel,
        signature={name: known[name] for name in kernel.arg_names if name in known},
        constexprs={name: constants[name] for name in kernel.arg_names if name in constants},
    )


COMPILE_CASES = [
    _case(kernel, dtype) for dtype in ("bf16", "fp32") for kernel in (_tile_logprobs_kernel, _row_logprobs_kernel)
]
