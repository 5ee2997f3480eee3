"""Random numbers without a generator: a hash of (seed, position, token id).

The same request draws the same noise alone, in any batch, after preemption and on any device. Three rounds of a 32-bit
mixer (multiplications and xor-shifts with well-tested constants) give 32 uniform bits for each token.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_MULTIPLIER_1, _MULTIPLIER_2 = 0x7FEB352D, -0x7B935975  # 0x846CA68B as a signed 32-bit number


def _mix64(x: int) -> int:
    """SplitMix64's finaliser: every bit of the result depends on every bit of ``x``."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def _signed32(x: int) -> int:
    x &= 0xFFFFFFFF
    return x - (1 << 32) if x >= 1 << 31 else x


def _mix32_(x: Tensor) -> Tensor:
    """In place on int32; right shifts are logical, so sign bits are masked off."""
    x ^= (x >> 16) & 0xFFFF
    x *= _MULTIPLIER_1
    x ^= (x >> 15) & 0x1FFFF
    x *= _MULTIPLIER_2
    x ^= (x >> 16) & 0xFFFF
    return x


def random_bits(seeds: list[int], positions: list[int], token_ids: Tensor) -> Tensor:
    """int32 [num_rows, n]: 32 random bits for each row's (seed, position) and each of ``token_ids`` [n]."""
    keys = [_mix64(_mix64(seed & _MASK64) ^ position) for seed, position in zip(seeds, positions, strict=True)]
    low = torch.tensor([[_signed32(key)] for key in keys], dtype=torch.int32, device=token_ids.device)
    high = torch.tensor([[_signed32(key >> 32)] for key in keys], dtype=torch.int32, device=token_ids.device)
    bits = _mix32_(token_ids.to(torch.int32) ^ low)
    return _mix32_(_mix32_(bits.add_(high)))


def exponential_noise(seeds: list[int], positions: list[int], vocab_size: int, device: torch.device) -> Tensor:
    """fp32 [num_rows, vocab_size], distributed as Exp(1).

    argmin(noise / p) draws a token with probability p. Small values decide, so they keep the full resolution: −log(1−u)
    of a u that reaches down to 2⁻³³.
    """
    bits = random_bits(seeds, positions, torch.arange(vocab_size, device=device))
    uniform = bits.to(torch.int64).bitwise_and_(0xFFFFFFFF).to(torch.float32)  # 0 … 2³²
    uniform = uniform.add_(0.5).mul_(2.0**-32)
    return uniform.neg_().log1p_().neg_()
