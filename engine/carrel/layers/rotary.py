"""Rotary position embedding: inverse frequencies by scaling type, and the rotation itself.

Knows the formulas of the default, linear, llama3 and yarn types; each is a function of the model's files alone, never
of the length of a sequence, so that cached keys stay valid. Does not know which layers use it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from carrel.layers.rope_config import RopeConfig


class RotaryTables(NamedTuple):
    """Cosine and sine of one packed batch, shared by all layers."""

    cos: Tensor  # [num_tokens, 1, head_dim]
    sin: Tensor  # [num_tokens, 1, head_dim]; the first half negated, so that a rotation needs no second negation


def _default_inv_freq(head_dim: int, theta: float) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").to(torch.float32) / head_dim
    return 1.0 / (theta**exponents)  # [head_dim / 2]


def _llama3(inv_freq: Tensor, rope: RopeConfig) -> Tensor:
    """Long wavelengths are stretched by ``factor``, short ones kept, those between are blended (Llama 3.1)."""
    wavelength = 2 * math.pi / inv_freq
    turns = rope.original_max_position_embeddings / wavelength
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    smooth = smooth.clamp(0.0, 1.0)
    return (1 - smooth) * inv_freq / rope.factor + smooth * inv_freq


def _yarn_dimension(num_rotations: float, head_dim: int, rope: RopeConfig) -> float:
    """The dimension that turns ``num_rotations`` times within the original context."""
    period = rope.original_max_position_embeddings / (num_rotations * 2 * math.pi)
    return head_dim * math.log(period) / (2 * math.log(rope.theta))


def _yarn(inv_freq: Tensor, head_dim: int, rope: RopeConfig) -> Tensor:
    """Interpolate the slow dimensions, keep the fast ones, a linear ramp between (YaRN, arXiv 2309.00071)."""
    low = _yarn_dimension(rope.beta_fast, head_dim, rope)
    high = _yarn_dimension(rope.beta_slow, head_dim, rope)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # no division by zero
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)
    keep = 1 - ramp.clamp(0.0, 1.0)
    return inv_freq / rope.factor * (1 - keep) + inv_freq * keep


def inverse_frequencies(head_dim: int, rope: RopeConfig) -> Tensor:
    """[head_dim / 2], fp32, on the CPU."""
    inv_freq = _default_inv_freq(head_dim, rope.theta)
    if rope.rope_type == "linear":
        return inv_freq / rope.factor
    if rope.rope_type == "llama3":
        return _llama3(inv_freq, rope)
    if rope.rope_type == "yarn":
        return _yarn(inv_freq, head_dim, rope)
    return inv_freq


class RotaryEmbedding:
    """Makes the tables of a batch from its positions. The angles are computed in fp32 whatever the model's dtype."""

    def __init__(self, head_dim: int, rope: RopeConfig, max_positions: int) -> None:
        self.inv_freq = inverse_frequencies(head_dim, rope)
        self.scale = rope.attention_factor
        self.max_positions = max_positions
        self._by_position: Tensor | None = None

    def tables(self, positions: Tensor, dtype: torch.dtype) -> RotaryTables:
        """``positions``: [num_tokens] int64; the tables are in ``dtype``, on the device of ``positions``."""
        if self.inv_freq.device != positions.device:
            self.inv_freq = self.inv_freq.to(positions.device)
        angles = positions.to(torch.float32).unsqueeze(1) * self.inv_freq  # [num_tokens, head_dim / 2]
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        cos = torch.cat((cos, cos), dim=-1).to(dtype)
        sin = torch.cat((-sin, sin), dim=-1).to(dtype)
        return RotaryTables(cos.unsqueeze(1), sin.unsqueeze(1))

    def by_position(self, device: torch.device) -> Tensor:
        """fp32 [max_positions, head_dim]: cosines, then sines, of every position; made once, for kernels to look up."""
        if self._by_position is None or self._by_position.device != device:
            positions = torch.arange(self.max_positions, dtype=torch.float32, device=device)
            angles = positions.unsqueeze(1) * self.inv_freq.to(device)  # [max_positions, head_dim / 2]
            self._by_position = torch.cat((angles.cos() * self.scale, angles.sin() * self.scale), dim=-1)
        return self._by_position


def apply_rotary(x: Tensor, tables: RotaryTables) -> Tensor:
    """Rotate ``x`` [num_tokens, num_heads, head_dim]; dimension i is paired with i + head_dim / 2."""
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return x * tables.cos + swapped * tables.sin
