"""Quantised weights: how they are made, what they stand for, and the plain-torch twins of the products with them.

int8, one scale for each output channel; symmetric, so that the scale leaves the sum::

    W[n, k] ≈ scale[n] · q[n, k]                       q in −127 … 127

int4, one scale and zero point for each group of inputs; two numbers a byte, the halves of a group in the two nibbles::

    W[n, k] ≈ scale[g, n] · (q[g, n, j] − zero[g, n])   k = g · size + j, q and zero in 0 … 15
    packed  [num_groups, num_outputs, size / 2]         byte i: q[i] in the low nibble, q[i + size / 2] in the high one

A group's slab of all outputs lies in one piece, as the kernel reads it. Formulas only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FP8_LARGEST = 448.0  # of float8_e4m3


class Int8Weight(NamedTuple):
    values: Tensor  # int8 [num_outputs, num_inputs]
    scales: Tensor  # fp32 or the model's dtype [num_outputs]


class Int4Weight(NamedTuple):
    packed: Tensor  # uint8 [num_groups, num_outputs, group_size / 2]
    scales: Tensor  # fp32 or the model's dtype [num_groups, num_outputs]
    zeros: Tensor  # uint8 [num_groups, num_outputs]


def quantize_int8(weight: Tensor, scale_dtype: torch.dtype = torch.float32) -> Int8Weight:
    """``weight`` [num_outputs, num_inputs], each row rounded to 255 steps of its largest entry.

    The steps are those of the scale as it was rounded to ``scale_dtype``.
    """
    rows = weight.to(torch.float32)
    least = torch.finfo(scale_dtype).tiny
    scales = (rows.abs().amax(dim=1) / 127).clamp(min=least).to(scale_dtype)
    values = torch.round(rows / scales.to(torch.float32).unsqueeze(1)).clamp(-127, 127).to(torch.int8)
    return Int8Weight(values, scales)


def dequantize_int8(weight: Int8Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """[num_outputs, num_inputs] in ``dtype``."""
    return (weight.values.to(torch.float32) * weight.scales.to(torch.float32).unsqueeze(1)).to(dtype)


def quantize_int4(weight: Tensor, group_size: int) -> Int4Weight:
    """``weight`` [num_outputs, num_inputs], each group rounded to 16 steps between its least (or 0) and largest (or 0).

    Scales are kept in the dtype of ``weight``; the steps are those of the scale as it was rounded to it.
    """
    num_outputs, num_inputs = weight.shape
    assert num_inputs % group_size == 0 and group_size % 2 == 0, "whole groups, of two halves"
    groups = weight.view(num_outputs, -1, group_size).transpose(0, 1).to(torch.float32)  # [groups, outputs, size]
    low, high = groups.amin(dim=2).clamp(max=0), groups.amax(dim=2).clamp(min=0)
    scales = ((high - low) / 15).clamp(min=torch.finfo(weight.dtype).tiny).to(weight.dtype)
    steps = scales.to(torch.float32)
    zeros = torch.round(-low / steps).clamp(0, 15)
    values = (torch.round(groups / steps.unsqueeze(2)) + zeros.unsqueeze(2)).clamp(0, 15).to(torch.uint8)
    first, second = values.chunk(2, dim=2)
    return Int4Weight((first | second << 4).contiguous(), scales, zeros.to(torch.uint8))


def dequantize_int4(weight: Int4Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """[num_outputs, num_inputs] in ``dtype``; the parts may be slices of some outputs of a larger weight."""
    values = torch.cat((weight.packed & 15, weight.packed >> 4), dim=2).to(torch.float32)  # [groups, outputs, size]
    steps = values - weight.zeros.unsqueeze(2)
    return (steps * weight.scales.to(torch.float32).unsqueeze(2)).transpose(0, 1).flatten(1).to(dtype)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` [num_tokens, size] → float8_e4m3 [num_tokens, size] and fp32 scales [num_tokens, 1]; rows may lie apart."""
    values = x.to(torch.float32)
    scales = values.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / FP8_LARGEST
    return (values / scales).clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn), scales


def int8_linear(x: Tensor, weight: Int8Weight, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias for ``x`` [num_tokens, num_inputs], in fp32 until the end."""
    return _linear(x, dequantize_int8(weight), bias)


def int4_linear(x: Tensor, weight: Int4Weight, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias for ``x`` [num_tokens, num_inputs], in fp32 until the end."""
    return _linear(x, dequantize_int4(weight), bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.to(torch.float32), weight, None if bias is None else bias.to(torch.float32)).to(x.dtype)
