"""Randomness without a generator: one number for each (seed, position).

The same request draws the same number alone, in any batch, after preemption and on any device. Knows nothing of logits.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ / golden ratio, SplitMix64's step


def _mix(x: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every bit of the result depends on every bit of ``x``."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def seed_state(seed: int) -> int:
    """The mixed seed, an integer below 2⁶⁴: what positions are added to. ``seed`` counts modulo 2⁶⁴."""
    return _mix((seed + _GOLDEN) & _MASK)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits. ``seed`` counts modulo 2⁶⁴.

    >>> uniform(0, 7) == uniform(2**64, 7) != uniform(0, 8)
    True
    """
    return (_mix((seed_state(seed) + position * _GOLDEN) & _MASK) >> 11) * 2.0**-53
