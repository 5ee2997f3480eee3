"""The plain-torch twins of the sampling kernels: the law written out, one row at a time, with sorts and fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from carrel.kernels import sampling_rows as columns
from carrel.kernels.sampling_rows import SamplingBuffers, SamplingMode, SamplingRows

MIN_TEMPERATURE = 1e-5
LARGEST = 1e30
_MASK = (1 << 64) - 1


def penalised_logits(logits: Tensor, rows: SamplingRows, table: Tensor) -> Tensor:
    """fp32 [num_rows, vocab_size]: what the sampler draws from, before temperature and filters; NaN and +inf out."""
    out = logits.to(torch.float32).clone()
    out[torch.isnan(out) | torch.isposinf(out)] = -torch.inf
    for row in range(out.shape[0]):
        slot = int(rows.ints[row, columns.SLOT])
        if slot >= 0:
            too_early = int(rows.longs[row, columns.POSITION]) < int(rows.ints[row, columns.MIN_LENGTH])
            out[row] = _penalise(out[row], table[slot].to(torch.int32), rows.floats[row], too_early=too_early)
    return out


def _penalise(x: Tensor, seen: Tensor, floats: Tensor, *, too_early: bool) -> Tensor:
    count = seen // columns.OCCURS
    occurs = (count > 0) | (seen & columns.IN_PROMPT > 0)
    repetition = floats[columns.REPETITION]
    if repetition != 1.0:
        repeated = torch.where(x > 0, x / repetition, x * repetition).clamp(-LARGEST, LARGEST)
        x = torch.where(occurs, repeated, x)
    x = torch.where(count > 0, x - (floats[columns.FREQUENCY] * count + floats[columns.PRESENCE]), x)
    return x.masked_fill(seen & columns.ENDS_TEXT > 0, -torch.inf) if too_early else x


def find_thresholds(
    logits: Tensor, rows: SamplingRows, table: Tensor, buffers: SamplingBuffers, *, has_table: bool
) -> None:
    """Fill ``buffers.thresholds``: tokens whose adjusted logit is below are dropped."""
    adjusted = _adjusted(logits, rows, table, has_table=has_table)
    for row in range(adjusted.shape[0]):
        buffers.thresholds[row] = _threshold(adjusted[row], rows.floats[row], int(rows.ints[row, columns.TOP_K]))


def _adjusted(logits: Tensor, rows: SamplingRows, table: Tensor, *, has_table: bool) -> Tensor:
    if has_table:
        return penalised_logits(logits, rows, table)
    x = logits.to(torch.float32)
    return x.masked_fill(torch.isnan(x) | torch.isposinf(x), -torch.inf)


def _threshold(x: Tensor, floats: Tensor, top_k: int) -> float:
    """The smallest logit that stays; equal logits stay together. -inf: all."""
    temperature = max(float(floats[columns.TEMPERATURE]), MIN_TEMPERATURE)
    best, _ = torch.sort(x, descending=True)
    if not torch.isfinite(best[0]):
        return -torch.inf
    kept = best[torch.isfinite(best)]
    min_p = floats[columns.MIN_P]
    if min_p > 0:
        kept = kept[kept >= best[0] + temperature * min_p.log()]
    if top_k:
        kept = kept[kept >= kept[min(top_k, len(kept)) - 1]]
    if floats[columns.TOP_P] < 1.0:
        sums = ((kept - best[0]) / temperature).exp().double().cumsum(0)
        before = torch.cat([sums.new_zeros(1), sums[:-1]])  # mass of the better tokens
        kept = kept[kept >= kept[before < floats[columns.TOP_P] * sums[-1]][-1]]
    everything = min_p == 0 and not top_k and floats[columns.TOP_P] >= 1.0
    return -torch.inf if everything else float(kept[-1])


def sample_tokens(
    logits: Tensor, rows: SamplingRows, table: Tensor, buffers: SamplingBuffers, mode: SamplingMode
) -> None:
    """One token for each row of ``logits`` [num_rows, vocab_size] into ``buffers``; counts it in ``table``."""
    has_table = SamplingMode.TABLE in mode
    adjusted = _adjusted(logits, rows, table, has_table=has_table)
    buffers.thresholds.fill_(-torch.inf)
    if SamplingMode.FILTERS in mode:
        find_thresholds(logits, rows, table, buffers, has_table=has_table)
    for row in range(adjusted.shape[0]):
        x = adjusted[row]
        good = not torch.isnan(logits[row]).any() and bool(torch.isfinite(logits[row].max() + x.max()))
        token = int(x.argmax()) if good else 0
        if good and rows.floats[row, columns.TEMPERATURE] > 0.0:
            token = _draw(x, float(buffers.thresholds[row]), rows, row)
        rows.longs[row, columns.POSITION] += 1
        buffers.token_ids[row] = token
        buffers.results[row] = token if good else -1
        slot = int(rows.ints[row, columns.SLOT])
        if has_table and good and slot >= 0:
            table[slot, token] += columns.OCCURS * int(table[slot, token] < columns.MAX_OCCURRENCES * columns.OCCURS)


def _draw(x: Tensor, threshold: float, rows: SamplingRows, row: int) -> int:
    temperature = max(float(rows.floats[row, columns.TEMPERATURE]), MIN_TEMPERATURE)
    weights = ((x - x.max()) / temperature).exp().masked_fill(x < threshold, 0.0).double()
    sums = weights.cumsum(0)
    state, position = (int(rows.longs[row, column]) for column in (columns.STATE, columns.POSITION))
    point = uniform(state, position) * sums[-1]
    above = ((sums > point) & (weights > 0)).nonzero()
    return int(above[0] if len(above) else weights.nonzero()[-1])


def uniform(state: int, position: int) -> float:
    """splitmix64 of the mixed seed and the position of the new token, in [0, 1)."""
    x = (state + position * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((x ^ (x >> 31)) >> 11) * 2.0**-53


def token_logprobs(logits: Tensor, token_ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log probabilities fp32, ranks int64 from 1, log of the sums fp32), each [n], of the n ``rows``."""
    x = logits[rows].to(torch.float32)
    chosen = x.gather(1, token_ids[rows].unsqueeze(1))
    log_sums = x.logsumexp(dim=-1)
    return chosen[:, 0] - log_sums, (x > chosen).sum(dim=-1) + 1, log_sums


def mask_tokens(logits: Tensor, masks: Tensor, rows: Tensor) -> None:
    """-inf for the tokens of ``rows`` [n] whose bit in ``masks`` [n, ceil(vocab_size / 32)] is 0; NaN and +inf stay."""
    bits = (masks.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32, device=masks.device)) & 1
    stays = bits.flatten(1)[:, : logits.shape[1]] != 0
    x = logits[rows]
    logits[rows] = torch.where(stays | torch.isnan(x) | torch.isposinf(x), x, -torch.inf)
