"""Which tokens may be drawn: one threshold a row for min_p, top_k and top_p, found without a sort.

With x the adjusted logits of a row, M their maximum, T the temperature and w(x) = exp((x - M) / T)::

    floor     = M + T log(min_p)                                            keeps x ≥ floor
    kth       = the largest t with |{x ≥ t, x ≥ floor}| ≥ top_k             keeps x ≥ kth
    nucleus   = the largest t with Σ w(x ≥ t) ≥ top_p · Σ w(x ≥ kth)        keeps x ≥ nucleus
    threshold = max(floor, kth, nucleus)

so tokens of equal logits stay or go together (a sort would cut through them at will). The last two are bisections over
the ordered bits of fp32, exact after 32 halvings at most. They run over registers: of all groups of GROUP neighbouring
tokens whose largest logit the pass before left, the SELECTED best hold every logit above a bound (count of groups, by
bisection), and nearly always the whole answer. Where they do not (a flat distribution, a large top_k), a last kernel
searches the whole row, slowly, three pivots a pass; the programs of all other rows end at once.

Source: Alabi et al. 2012, "Fast k-selection algorithms for graphics processing units" (bisection); the filters are of
Fan et al. 2018 (top_k), Holtzman et al. 2020 (top_p) and Nguyen et al. 2024 (min_p).
Twin: ``reference_sampling.find_thresholds``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from carrel.kernels import sampling_rows as columns
from carrel.kernels.compile_case import CompileCase
from carrel.kernels.penalties import ROW_SIGNATURE, load_adjusted
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingRows

BLOCK = 8192  # of the search over a whole row
TEMPERATURE = tl.constexpr(columns.TEMPERATURE)
TOP_P = tl.constexpr(columns.TOP_P)
MIN_P = tl.constexpr(columns.MIN_P)
TOP_K = tl.constexpr(columns.TOP_K)
MIN_TEMPERATURE = tl.constexpr(1e-5)  # as in worker.sampler
DONE = tl.constexpr(-1)
WHOLE_ROW = tl.constexpr(-2)
WIDEST = tl.constexpr(256.0)  # logits so far under the best are not told apart when groups are selected
VANISHES = tl.constexpr(104.0)  # exp(-104) is 0 in fp32


@triton.jit
def ordered(x):
    """The bits of fp32 as integers in the order of the numbers. Its own inverse but for the type: see unordered."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def unordered(key):
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def weights_of(x, best, temperature):
    """exp((x - best) / temperature), 0 where x is -inf; ``best`` is finite."""
    return tl.exp((x - best) / temperature)


@triton.jit
def row_maximum(tile_max, row, num_tiles, TILES: tl.constexpr):
    """The largest finite logit; 0 where there is none."""
    tiles = tl.arange(0, TILES)
    x = tl.load(tile_max + row * num_tiles + tiles, mask=tiles < num_tiles, other=float("-inf"))
    best = tl.max(tl.where(x == float("inf"), float("-inf"), x), axis=0)
    return tl.where(best == float("-inf"), 0.0, best)


@triton.jit
def row_total(tile_max, tile_sum, row, num_tiles, best, temperature, TILES: tl.constexpr):
    """Σ exp((x - best) / temperature) over the row."""
    tiles = tl.arange(0, TILES)
    x = tl.load(tile_max + row * num_tiles + tiles, mask=tiles < num_tiles, other=float("-inf"))
    sums = tl.load(tile_sum + row * num_tiles + tiles, mask=tiles < num_tiles, other=0.0)
    x = tl.where(x == float("inf"), float("-inf"), x)
    return tl.sum(sums * weights_of(x, best, temperature), axis=0)


@triton.jit
def _row_floor(floats, best, temperature):
    min_p = tl.load(floats + MIN_P)
    return tl.where(min_p > 0.0, best + temperature * tl.log(tl.maximum(min_p, 1e-30)), float("-inf"))


@triton.jit
def _select_kernel(
    floats, ints, group_max, tile_max, selected, num_selected, bounds, thresholds, num_groups, num_tiles,
    GROUPS: tl.constexpr, TILES: tl.constexpr, SELECTED: tl.constexpr,
):  # fmt: skip
    """The SELECTED best groups of a row, or the threshold itself where no search is needed."""
    row = tl.program_id(0).to(tl.int64)
    floats += row * 16
    temperature = tl.load(floats + TEMPERATURE)
    best = row_maximum(tile_max, row, num_tiles, TILES)
    searches = (tl.load(ints + row * 16 + TOP_K) > 0) | (tl.load(floats + TOP_P) < 1.0)
    if (temperature == 0.0) | (not searches):
        tl.store(thresholds + row, _row_floor(floats, best, tl.maximum(temperature, MIN_TEMPERATURE)))
        tl.store(num_selected + row, DONE)
    else:
        groups = tl.arange(0, GROUPS)
        x = tl.load(group_max + row * num_groups + groups, mask=groups < num_groups, other=float("-inf"))
        low = best - WIDEST
        high = best
        # the smallest bound that at most SELECTED groups reach, near enough
        if tl.sum((x >= low).to(tl.int32), axis=0) <= SELECTED:
            high = low
        else:
            for _ in range(16):
                middle = (low + high) * 0.5
                fits = tl.sum((x >= middle).to(tl.int32), axis=0) <= SELECTED
                high = tl.where(fits, middle, high)
                low = tl.where(fits, low, middle)
        high = tl.where(num_groups <= SELECTED, float("-inf"), high)
        chosen = (x >= high) & (groups < num_groups)
        count = tl.sum(chosen.to(tl.int32), axis=0)
        place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        tl.store(selected + row * SELECTED + place, groups, mask=chosen & (place < SELECTED))
        tl.store(bounds + row, high)
        tl.store(num_selected + row, tl.where(count <= SELECTED, count, WHOLE_ROW))


@triton.jit
def _largest(x, weights, goal, low, high):
    """The largest of the keys [low, high) at whose value Σ weights(x ≥ value) reaches ``goal``; it does at ``low``."""
    while high - low > 1:
        middle = (low + high) >> 1
        reached = tl.sum(tl.where(x >= unordered(middle), weights, 0.0), axis=0) >= goal
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    return low


@triton.jit
def _threshold_kernel(
    logits, logits_stride, floats, ints, longs, table, tile_max, tile_sum, selected, num_selected, bounds,
    thresholds, vocab_size, num_tiles,
    GROUP: tl.constexpr, TILES: tl.constexpr, SELECTED: tl.constexpr, HAS_TABLE: tl.constexpr,
):  # fmt: skip
    """The threshold of a row from its selected groups, where they suffice."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.load(num_selected + row)
    if count >= 0:
        slots = tl.arange(0, SELECTED * GROUP)  # tokens of the selected groups, in the order of their ids
        groups = tl.load(selected + row * SELECTED + slots // GROUP, mask=slots // GROUP < count, other=0)
        offsets = groups * GROUP + slots % GROUP
        mask = (slots // GROUP < count) & (offsets < vocab_size)
        x = load_adjusted(
            logits, logits_stride, table, floats, ints, longs, row, offsets, mask, vocab_size, HAS_TABLE=HAS_TABLE
        )
        floats += row * 16
        temperature = tl.maximum(tl.load(floats + TEMPERATURE), MIN_TEMPERATURE)
        best = row_maximum(tile_max, row, num_tiles, TILES)
        floor = _row_floor(floats, best, temperature)
        bound = tl.load(bounds + row)
        complete = (bound == float("-inf")) | (floor >= bound)  # every token above the floor is here
        x = tl.where(x >= tl.maximum(floor, bound), x, float("-inf"))
        low = ordered(tl.maximum(floor, bound))
        high = ordered(best) + 1
        solved = count >= 0

        top_k = tl.load(ints + row * 16 + TOP_K)
        if top_k > 0:
            ones = tl.where(x > float("-inf"), 1.0, 0.0)
            enough = tl.sum(ones, axis=0) >= top_k.to(tl.float32)
            if enough:
                low = _largest(x, ones, top_k.to(tl.float32), low, high)
            solved = enough | complete
            complete = solved
        top_p = tl.load(floats + TOP_P)
        if solved & (top_p < 1.0):
            weights = weights_of(x, best, temperature)
            inside = tl.sum(tl.where(x >= unordered(low), weights, 0.0), axis=0)
            total = row_total(tile_max, tile_sum, row, num_tiles, best, temperature, TILES)
            goal = top_p * tl.where(complete, inside, total)
            # where the floor is under the bound, how much it leaves is not known here
            solved = (inside >= goal) & (complete | (floor == float("-inf")))
            if solved:
                low = _largest(x, weights, goal, low, high)
        tl.store(thresholds + row, unordered(low))
        if not solved:
            tl.store(num_selected + row, WHOLE_ROW)


@triton.jit
def _tails(
    logits, logits_stride, floats, ints, longs, table, row, vocab_size, best, temperature,
    first, second, third, COUNTS: tl.constexpr, HAS_TABLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """How many tokens of the row, or how much weight, reach each of three ascending pivots."""
    at_first = tl.zeros((BLOCK,), tl.float32)
    at_second = tl.zeros((BLOCK,), tl.float32)
    at_third = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, vocab_size, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        mask = offsets < vocab_size
        x = load_adjusted(
            logits, logits_stride, table, floats, ints, longs, row, offsets, mask, vocab_size, HAS_TABLE=HAS_TABLE
        )
        weights = tl.full((BLOCK,), 1.0, tl.float32) if COUNTS else weights_of(x, best, temperature)
        at_first += tl.where(x >= first, weights, 0.0)
        at_second += tl.where(x >= second, weights, 0.0)
        at_third += tl.where(x >= third, weights, 0.0)
    return tl.sum(at_first, axis=0), tl.sum(at_second, axis=0), tl.sum(at_third, axis=0)


@triton.jit
def _largest_of_row(
    logits, logits_stride, floats, ints, longs, table, row, vocab_size, best, temperature,
    goal, low, high, COUNTS: tl.constexpr, HAS_TABLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """:func:`_largest` over all tokens of a row: two bits of the key each pass."""
    while high - low > 1:
        second = (low + high) >> 1
        first = (low + second) >> 1
        third = (second + high) >> 1
        at_first, at_second, at_third = _tails(
            logits, logits_stride, floats, ints, longs, table, row, vocab_size, best, temperature,
            unordered(first), unordered(second), unordered(third), COUNTS, HAS_TABLE, BLOCK,
        )  # fmt: skip
        high = tl.where(
            at_third >= goal, high, tl.where(at_second >= goal, third, tl.where(at_first >= goal, second, first))
        )
        low = tl.where(
            at_third >= goal, third, tl.where(at_second >= goal, second, tl.where(at_first >= goal, first, low))
        )
    return low


@triton.jit
def _search_kernel(
    logits, logits_stride, floats, ints, longs, table, tile_max, num_selected, thresholds, vocab_size, num_tiles,
    TILES: tl.constexpr, HAS_TABLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The threshold of a row whose selected groups did not suffice."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(num_selected + row) == WHOLE_ROW:
        temperature = tl.maximum(tl.load(floats + row * 16 + TEMPERATURE), MIN_TEMPERATURE)
        best = row_maximum(tile_max, row, num_tiles, TILES)
        floor = _row_floor(floats + row * 16, best, temperature)
        low = ordered(floor)
        high = ordered(best) + 1
        top_k = tl.load(ints + row * 16 + TOP_K)
        if top_k > 0:
            low = _largest_of_row(
                logits, logits_stride, floats, ints, longs, table, row, vocab_size, best, temperature,
                top_k.to(tl.float32), low, high, True, HAS_TABLE, BLOCK,
            )  # fmt: skip
        top_p = tl.load(floats + row * 16 + TOP_P)
        if top_p < 1.0:
            kth = unordered(low)
            total, _, _ = _tails(
                logits, logits_stride, floats, ints, longs, table, row, vocab_size, best, temperature,
                kth, kth, kth, False, HAS_TABLE, BLOCK,
            )  # fmt: skip
            low = ordered(tl.maximum(kth, best - VANISHES * temperature))
            low = _largest_of_row(
                logits, logits_stride, floats, ints, longs, table, row, vocab_size, best, temperature,
                top_p * total, low, high, False, HAS_TABLE, BLOCK,
            )  # fmt: skip
        tl.store(thresholds + row, unordered(low))


def find_thresholds(
    logits: Tensor, rows: SamplingRows, table: Tensor, buffers: SamplingBuffers, *, has_table: bool
) -> None:
    """Fill ``buffers.thresholds``; the maxima and sums of tiles and groups are there already (``sampling``).

    Arguments as of ``sampling.sample_tokens``. Tokens below the threshold are dropped; -inf drops none.
    """
    num_rows, vocab_size = logits.shape
    num_tiles, num_groups = buffers.tile_max.shape[1], buffers.group_max.shape[1]
    tiles, num_selected = triton.next_power_of_2(num_tiles), buffers.selected.shape[1]
    _select_kernel[(num_rows,)](
        rows.floats, rows.ints, buffers.group_max, buffers.tile_max, buffers.selected, buffers.num_selected,
        buffers.bounds, buffers.thresholds, num_groups, num_tiles,
        GROUPS=triton.next_power_of_2(num_groups), TILES=tiles, SELECTED=num_selected, num_warps=8,
    )  # fmt: skip
    _threshold_kernel[(num_rows,)](
        logits, logits.stride(0), rows.floats, rows.ints, rows.longs, table, buffers.tile_max, buffers.tile_sum,
        buffers.selected, buffers.num_selected, buffers.bounds, buffers.thresholds, vocab_size, num_tiles,
        GROUP=buffers.group, TILES=tiles, SELECTED=num_selected, HAS_TABLE=has_table, num_warps=8,
    )  # fmt: skip
    _search_kernel[(num_rows,)](
        logits, logits.stride(0), rows.floats, rows.ints, rows.longs, table, buffers.tile_max, buffers.num_selected,
        buffers.thresholds, vocab_size, num_tiles, TILES=tiles, HAS_TABLE=has_table, BLOCK=BLOCK, num_warps=16,
    )  # fmt: skip


_TILES = {"tile_max": "*fp32:16", "thresholds": "*fp32:16", "num_selected": "*i32:16", "num_tiles": "i32"}
_SELECTION = {"selected": "*i32:16", "bounds": "*fp32:16"}

COMPILE_CASES = [
    CompileCase(
        name="select vocab_size=151936",
        kernel=_select_kernel,
        signature={
            "floats": "*fp32:16", "ints": "*i32:16", "group_max": "*fp32:16", "num_groups": "i32:16",
            **_TILES, **_SELECTION,
        },
        constexprs={"GROUPS": 8192, "TILES": 128, "SELECTED": columns.SELECTED},
        num_warps=8,
    ),
    *(
        CompileCase(
            name=f"threshold {dtype} table={has_table}",
            kernel=_threshold_kernel,
            signature={"logits": f"*{dtype}:16", "tile_sum": "*fp32:16", **ROW_SIGNATURE, **_TILES, **_SELECTION},
            constexprs={"GROUP": columns.GROUP, "TILES": 128, "SELECTED": columns.SELECTED, "HAS_TABLE": has_table},
            num_warps=8,
        )
        for dtype in ("bf16", "fp32")
        for has_table in (False, True)
    ),
    *(
        CompileCase(
            name=f"search {dtype} table={has_table}",
            kernel=_search_kernel,
            signature={"logits": f"*{dtype}:16", **ROW_SIGNATURE, **_TILES},
            constexprs={"TILES": 128, "HAS_TABLE": has_table, "BLOCK": BLOCK},
            num_warps=16,
        )
        for dtype in ("bf16", "fp32")
        for has_table in (False, True)
    ),
]  # fmt: skip
