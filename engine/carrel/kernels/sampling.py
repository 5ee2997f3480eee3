"""From logits to token ids, one row a request: two passes over tiles of the vocabulary, no sort, no noise per token.

The law is the CPU sampler's (worker.sampler). With x the logits after penalties, T the temperature, M the maximum::

    w_i = exp((x_i - M) / T) if x_i ≥ threshold else 0          tokens i in the order of their ids
    u   = splitmix64(state + position * golden) / 2⁶⁴           one number for each (seed, position)
    token = the first i with Σ_{j ≤ i} w_j > u Σ_j w_j;         greedy rows: the first i with x_i = M

A first kernel takes the maximum and the sum of each tile, a last one finds the tile that the point falls into and then
the token; between them, only if some row filters, ``thresholds`` and the sums of what is left. Sums over tiles and
inside the drawn one are fp64; every row is computed alone, so that batching changes nothing. NaN or +inf in a row gives
the result -1 for that row. Bound by one read of the logits. Source: Steele, Lea, Flood 2014 (SplitMix64); Devroye 1986
(inversion). Twin: ``reference_sampling.sample_tokens``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels import sampling_rows as columns
from carrel.kernels.compile_case import CompileCase
from carrel.kernels.penalties import ROW_SIGNATURE, adjusted, load_adjusted
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode, SamplingRows
from carrel.kernels.thresholds import find_thresholds, row_maximum, weights_of

TEMPERATURE = tl.constexpr(columns.TEMPERATURE)
SLOT = tl.constexpr(columns.SLOT)
STATE = tl.constexpr(columns.STATE)
POSITION = tl.constexpr(columns.POSITION)
OCCURS = tl.constexpr(columns.OCCURS)
MOST_OCCURS = tl.constexpr(columns.MAX_OCCURRENCES * columns.OCCURS)
MIN_TEMPERATURE = tl.constexpr(1e-5)  # as in worker.sampler
GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)  # as in worker.noise


@triton.jit
def _tiles_kernel(
    logits, logits_stride, floats, ints, longs, table, tile_max, tile_sum, tile_best, group_max, vocab_size,
    num_tiles, TILE: tl.constexpr, GROUP: tl.constexpr, DRAW: tl.constexpr, FILTERS: tl.constexpr,
    HAS_TABLE: tl.constexpr,
):  # fmt: skip
    """Maximum, its token and the sum of weights of one tile; maxima of its groups."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    groups = tile * (TILE // GROUP) + tl.arange(0, TILE // GROUP)
    offsets = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]  # [TILE // GROUP, GROUP]
    mask = offsets < vocab_size
    raw = tl.load(logits + row * logits_stride + offsets, mask=mask, other=float("-inf")).to(tl.float32)
    sick = tl.max(tl.max(((raw != raw) | (raw == float("inf"))).to(tl.int32), axis=1), axis=0)
    x = adjusted(raw, table, floats, ints, longs, row, offsets, mask, vocab_size, HAS_TABLE=HAS_TABLE)
    maxima = tl.max(x, axis=1)
    best = tl.max(maxima, axis=0)
    best_token = tl.min(tl.min(tl.where(x == best, offsets, 0x7FFFFFFF), axis=1), axis=0)
    tl.store(tile_max + row * num_tiles + tile, tl.where(sick != 0, float("inf"), best))
    tl.store(tile_best + row * num_tiles + tile, best_token)
    if FILTERS:
        tl.store(group_max + row * num_tiles * (TILE // GROUP) + groups, maxima)
    if DRAW:
        temperature = tl.maximum(tl.load(floats + row * 16 + TEMPERATURE), MIN_TEMPERATURE)
        weights = weights_of(x, tl.where(best == float("-inf"), 0.0, best), temperature)
        tl.store(tile_sum + row * num_tiles + tile, tl.sum(tl.sum(weights, axis=1), axis=0))


@triton.jit
def _kept_sums_kernel(
    logits, logits_stride, floats, ints, longs, table, tile_max, tile_sum, thresholds, vocab_size, num_tiles,
    TILE: tl.constexpr, HAS_TABLE: tl.constexpr,
):  # fmt: skip
    """The sum of weights of one tile again, without the tokens under the threshold. Most tiles hold none above it."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    threshold = tl.load(thresholds + row)
    best = tl.load(tile_max + row * num_tiles + tile)
    if (best < threshold) | (best == float("inf")):
        tl.store(tile_sum + row * num_tiles + tile, 0.0)
    elif threshold > float("-inf"):
        offsets = tile * TILE + tl.arange(0, TILE)
        x = load_adjusted(
            logits, logits_stride, table, floats, ints, longs, row, offsets, offsets < vocab_size, vocab_size,
            HAS_TABLE=HAS_TABLE,
        )  # fmt: skip
        temperature = tl.maximum(tl.load(floats + row * 16 + TEMPERATURE), MIN_TEMPERATURE)
        weights = tl.where(x >= threshold, weights_of(x, best, temperature), 0.0)
        tl.store(tile_sum + row * num_tiles + tile, tl.sum(weights, axis=0))


@triton.jit
def _mix(x):
    """SplitMix64's finaliser on uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _uniform(state, position):
    """In [0, 1), 53 random bits, fp64."""
    mixed = _mix(state.to(tl.uint64, bitcast=True) + position.to(tl.uint64, bitcast=True) * GOLDEN)
    return (mixed >> 11).to(tl.int64).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def _first_above(sums, weights, point, SIZE: tl.constexpr):
    """The first index whose running sum passes ``point``; the last of any weight if rounding leaves none."""
    index = tl.arange(0, SIZE)
    first = tl.min(tl.where((sums > point) & (weights > 0.0), index, SIZE), axis=0)
    last = tl.max(tl.where(weights > 0.0, index, 0), axis=0)
    return tl.where(first < SIZE, first, last)


@triton.jit
def _draw_kernel(
    logits, logits_stride, floats, ints, longs, table, tile_max, tile_sum, tile_best, thresholds,
    token_ids, results, vocab_size, num_tiles,
    TILE: tl.constexpr, TILES: tl.constexpr, DRAW: tl.constexpr, FILTERS: tl.constexpr, HAS_TABLE: tl.constexpr,
):  # fmt: skip
    """The token of one row."""
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(longs + row * 8 + POSITION)  # of the token that is drawn
    tiles = tl.arange(0, TILES)
    maxima = tl.load(tile_max + row * num_tiles + tiles, mask=tiles < num_tiles, other=float("-inf"))
    most = tl.max(maxima, axis=0)
    good = (most < float("inf")) & (most > float("-inf"))
    best_tile = tl.min(tl.where(maxima == most, tiles, TILES), axis=0)
    token = tl.load(tile_best + row * num_tiles + tl.minimum(best_tile, num_tiles - 1)).to(tl.int64)
    if DRAW:
        temperature = tl.load(floats + row * 16 + TEMPERATURE)
        if good & (temperature > 0.0):
            temperature = tl.maximum(temperature, MIN_TEMPERATURE)
            best = row_maximum(tile_max, row, num_tiles, TILES)
            sums = tl.load(tile_sum + row * num_tiles + tiles, mask=tiles < num_tiles, other=0.0)
            weights = sums.to(tl.float64) * weights_of(maxima, best, temperature).to(tl.float64)
            point = _uniform(tl.load(longs + row * 8 + STATE), position) * tl.sum(weights, axis=0)
            tile = _first_above(tl.cumsum(weights, axis=0), weights, point, TILES)
            before = tl.sum(tl.where(tiles < tile, weights, 0.0), axis=0)
            offsets = tile * TILE + tl.arange(0, TILE)
            x = load_adjusted(
                logits, logits_stride, table, floats, ints, longs, row, offsets, offsets < vocab_size, vocab_size,
                HAS_TABLE=HAS_TABLE,
            )  # fmt: skip
            inside = weights_of(x, best, temperature).to(tl.float64)
            if FILTERS:
                inside = tl.where(x >= tl.load(thresholds + row), inside, 0.0)
            token = (tile * TILE + _first_above(tl.cumsum(inside, axis=0), inside, point - before, TILE)).to(tl.int64)
    token = tl.where(good, token, 0)
    tl.store(token_ids + row, token)
    tl.store(longs + row * 8 + POSITION, position + 1)
    tl.store(results + row, tl.where(good, token, -1))
    if HAS_TABLE:
        slot = tl.load(ints + row * 16 + SLOT).to(tl.int64)
        if good & (slot >= 0):
            seen = tl.load(table + slot * vocab_size + token)
            tl.store(table + slot * vocab_size + token, tl.where(seen < MOST_OCCURS, seen + OCCURS, seen).to(tl.int16))


def sample_tokens(
    logits: Tensor, rows: SamplingRows, table: Tensor, buffers: SamplingBuffers, mode: SamplingMode
) -> None:
    """One token for each row of ``logits`` [num_rows, vocab_size] into ``buffers``; no allocation, no wait.

    Args:
        logits: of any float dtype; not changed. Rows may lie apart.
        rows: parameters; as many rows at least as ``logits``. Positions move on by one.
        table: [num_slots, vocab_size] int16, see ``penalties``; the new token is counted. Read only in mode TABLE.
        buffers: made for this vocabulary.
        mode: what some row needs; rows that need less are served all the same.
    """
    num_rows, vocab_size = logits.shape
    num_tiles, tile = buffers.tile_max.shape[1], buffers.tile
    assert logits.stride(1) == 1, "a row lies in one piece"
    assert num_tiles == triton.cdiv(vocab_size, tile), "the buffers were made for another vocabulary"
    draws, filters = SamplingMode.DRAW in mode, SamplingMode.FILTERS in mode
    assert draws or not filters, "only a draw has filters"
    has_table = SamplingMode.TABLE in mode
    assert not has_table or (table.shape[1] == vocab_size and table.is_contiguous()), "one column for each token"
    common = (logits, logits.stride(0), rows.floats, rows.ints, rows.longs, table)
    _tiles_kernel[(num_rows, num_tiles)](
        *common, buffers.tile_max, buffers.tile_sum, buffers.tile_best, buffers.group_max, vocab_size, num_tiles,
        TILE=tile, GROUP=buffers.group, DRAW=draws, FILTERS=filters, HAS_TABLE=has_table,
        num_warps=8,
    )  # fmt: skip
    if filters:
        find_thresholds(logits, rows, table, buffers, has_table=has_table)
        _kept_sums_kernel[(num_rows, num_tiles)](
            *common, buffers.tile_max, buffers.tile_sum, buffers.thresholds, vocab_size, num_tiles,
            TILE=tile, HAS_TABLE=has_table, num_warps=8,
        )  # fmt: skip
    _draw_kernel[(num_rows,)](
        *common, buffers.tile_max, buffers.tile_sum, buffers.tile_best, buffers.thresholds,
        buffers.token_ids, buffers.results, vocab_size, num_tiles,
        TILE=tile, TILES=triton.next_power_of_2(num_tiles), DRAW=draws, FILTERS=filters, HAS_TABLE=has_table,
        num_warps=8,
    )  # fmt: skip


_TILES = {
    "tile_max": "*fp32:16", "tile_sum": "*fp32:16", "tile_best": "*i32:16", "thresholds": "*fp32:16", "num_tiles": "i32"
}  # fmt: skip
_MODES = [(False, False, False), (True, False, False), (True, True, False), (True, True, True)]


def _types(kernel: triton.runtime.JITFunction, dtype: str) -> dict[str, str]:
    """The types of those arguments that this kernel has."""
    known = {
        "logits": f"*{dtype}:16", **ROW_SIGNATURE, **_TILES, "longs": "*i64:16", "group_max": "*fp32:16",
        "token_ids": "*i64:16", "results": "*i64:16",
    }  # fmt: skip
    return {name: known[name] for name in kernel.arg_names if name in known}


COMPILE_CASES = [
    CompileCase(
        name=f"{kernel.__name__.strip('_')} {dtype} draw={draw} filters={filters} table={table}",
        kernel=kernel,
        signature=_types(kernel, dtype),
        constexprs={
            name: value
            for name, value in {
                "TILE": columns.TILE, "GROUP": columns.GROUP, "TILES": 128, "DRAW": draw, "FILTERS": filters,
                "HAS_TABLE": table,
            }.items()
            if name in kernel.arg_names
        },
        num_warps=8,
    )
    for dtype in ("bf16", "fp32")
    for draw, filters, table in _MODES
    for kernel in (_tiles_kernel, _kept_sums_kernel, _draw_kernel)
    if filters or kernel is not _kept_sums_kernel
]  # fmt: skip
