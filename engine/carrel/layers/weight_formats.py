"""How quantised weights are kept and multiplied with: one format for each scheme and kind of device.

A ``Linear`` or ``Embedding`` that has a format packs its weight as soon as it is loaded (``set_parameter``), so that no
more than one dense weight is in memory. Formulas are in ``kernels/reference_gemm.py``. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carrel.kernels import reference_gemm
from carrel.kernels.reference_gemm import Int4Weight, Int8Weight

GROUP_SIZES = (128, 64, 32)  # of int4, the largest that divides the inputs
FEW_TOKENS = 8  # above, a CPU multiplies faster with weights made dense first
MAX_DENSE = 1 << 20  # weights made dense at a time: they stay in the cache of a CPU
CHUNK = 1 << 24  # weights quantised at a time: the fp32 copies stay small

Packed = Any  # the NamedTuple of tensors that a format makes


class WeightFormat(Protocol):
    """One way to keep a matrix [num_outputs, num_inputs]."""

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        """Whether a matrix of this shape can be kept so."""
        ...

    def pack(self, weight: Tensor) -> Packed:
        """A NamedTuple of tensors."""
        ...

    def linear(self, x: Tensor, packed: Packed, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias: [num_tokens, num_inputs] → [num_tokens, num_outputs]."""
        ...


class PackedWeight(nn.Module):
    """A weight in some format. Its tensors are parameters, so that they count as weights."""

    def __init__(self, weight: Tensor, weight_format: WeightFormat) -> None:
        super().__init__()
        packed = weight_format.pack(weight)
        self.format, self._kind, self.dtype = weight_format, type(packed), weight.dtype
        for name, tensor in packed._asdict().items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self.format.linear(x, self.parts(), bias)

    def parts(self) -> Packed:
        return self._kind(*(getattr(self, name) for name in self._kind._fields))

    def rows(self, ids: Tensor) -> Tensor:
        """Rows [*ids.shape, num_inputs] of an int8 weight, in the model's dtype."""
        weight = self.parts()
        assert isinstance(weight, Int8Weight), "embeddings are kept in int8"
        return (weight.values[ids] * weight.scales[ids].unsqueeze(-1)).to(self.dtype)


class TorchInt8:
    """torch's product with int8 weights for few tokens in bf16, dense weights otherwise: in fp32 that is far faster."""

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        return True

    def pack(self, weight: Tensor) -> Int8Weight:
        """Scales in the model's dtype, as torch's product wants them."""
        packed: Int8Weight = pack_by_rows(lambda rows: reference_gemm.quantize_int8(rows, rows.dtype), weight, dim=0)
        return packed

    def linear(self, x: Tensor, packed: Int8Weight, bias: Tensor | None) -> Tensor:
        if len(x) > FEW_TOKENS or x.dtype != torch.bfloat16 or x.device.type != "cpu":
            return dense_linear(x, packed, bias, _dense_int8, dim=0, max_dense=MAX_DENSE)
        out = torch._weight_int8pack_mm(x, packed.values, packed.scales)
        return out if bias is None else out + bias


def _dense_int8(weight: Int8Weight, dtype: torch.dtype) -> Tensor:
    """As the twin's ``dequantize_int8`` to the dtype of the scales, with less traffic."""
    assert weight.scales.dtype == dtype, "scales are in the model's dtype"
    return weight.values.to(dtype).mul_(weight.scales.unsqueeze(1))


class TinyInt4Weight(NamedTuple):
    """As torch's CPU product wants it: W = (q − 8) · scale + zero for each group."""

    values: Tensor  # uint8 [num_outputs, num_inputs / 2], in an order of torch's own
    scales_and_zeros: Tensor  # [num_groups, num_outputs, 2]


class TorchInt4:
    """torch's product with int4 weights on a CPU in bf16, dense weights otherwise: in fp32 that is far faster."""

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        return num_outputs % 16 == 0 and num_inputs % GROUP_SIZES[-1] == 0

    def pack(self, weight: Tensor) -> TinyInt4Weight | Int4Weight:
        if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
            return pack_int4(weight)

        def pack_rows(rows: Tensor) -> TinyInt4Weight:
            packed, scales, zeros = reference_gemm.quantize_int4(rows, group_size_of(rows.shape[1]))
            values = torch.cat((packed & 15, packed >> 4), dim=2)  # [num_groups, rows, group_size]
            values = values.transpose(0, 1).flatten(1).to(torch.int32).contiguous()
            shift = (8 - zeros.to(scales.dtype)) * scales
            return TinyInt4Weight(
                torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1), torch.stack((scales, shift), dim=2)
            )

        pieces = [pack_rows(rows) for rows in split_rows(weight, multiple=64)]
        return TinyInt4Weight(
            torch.cat([piece.values for piece in pieces]),
            torch.cat([piece.scales_and_zeros for piece in pieces], dim=1).contiguous(),
        )

    def linear(self, x: Tensor, packed: TinyInt4Weight | Int4Weight, bias: Tensor | None) -> Tensor:
        if isinstance(packed, Int4Weight):
            return dense_linear(x, packed, bias, reference_gemm.dequantize_int4, dim=1, max_dense=MAX_DENSE)
        group_size = x.shape[1] // len(packed.scales_and_zeros)
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.contiguous(), packed.values, group_size, packed.scales_and_zeros
        )
        return out if bias is None else out + bias


class Fp8Weight(NamedTuple):
    values: Tensor  # float8_e4m3 [num_outputs, num_inputs]
    scales: Tensor  # fp32 [num_outputs, 1]


class Fp8Rows:
    """fp8 weights and activations, a scale for each output and each token; the product is torch's."""

    def __init__(self, quantize_rows: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self._quantize_rows = quantize_rows

    def fits(self, num_outputs: int, num_inputs: int) -> bool:
        return num_outputs % 16 == 0 and num_inputs % 16 == 0

    def pack(self, weight: Tensor) -> Fp8Weight:
        packed: Fp8Weight = pack_by_rows(lambda rows: Fp8Weight(*reference_gemm.quantize_rows(rows)), weight, dim=0)
        return packed

    def linear(self, x: Tensor, packed: Fp8Weight, bias: Tensor | None) -> Tensor:
        values, scales = self._quantize_rows(x)
        out = torch._scaled_mm(
            values,
            packed.values.t(),
            scale_a=scales,
            scale_b=packed.scales.t(),
            bias=None if bias is None else bias.to(torch.bfloat16),
            out_dtype=torch.bfloat16,  # the one that every device has for scales by row
            use_fast_accum=x.device.type == "cuda",
        )
        return out.to(x.dtype)


def dense_linear(
    x: Tensor,
    packed: Packed,
    bias: Tensor | None,
    dequantize: Callable[[Packed, torch.dtype], Tensor],
    *,
    dim: int,
    max_dense: int,
) -> Tensor:
    """x Wᵀ + bias through dense weights, ``max_dense`` at a time.

    The slices are of the outputs, which are dimension ``dim`` of every part of ``packed``.
    """
    num_outputs, rows = packed[0].shape[dim], max(16, max_dense // x.shape[1] // 16 * 16)
    if num_outputs <= rows:
        return F.linear(x, dequantize(packed, x.dtype), bias)
    out = torch.empty((len(x), num_outputs), dtype=x.dtype, device=x.device)
    for start in range(0, num_outputs, rows):
        length = min(rows, num_outputs - start)
        some = type(packed)(*(part.narrow(dim, start, length) for part in packed))
        some_bias = None if bias is None else bias[start : start + length]
        out[:, start : start + length] = F.linear(x, dequantize(some, x.dtype), some_bias)
    return out


def set_parameter(owner: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a loaded ``tensor`` in the place of a parameter; a weight whose owner has a format is packed at once."""
    setattr(owner, name, nn.Parameter(tensor.contiguous(), requires_grad=False))
    weight_format: WeightFormat | None = getattr(owner, "format", None)
    if name == "weight" and weight_format is not None:
        owner.packed = PackedWeight(tensor, weight_format)
        owner.register_parameter("weight", None)


def group_size_of(num_inputs: int) -> int:
    """
    >>> group_size_of(896), group_size_of(96)
    (128, 32)
    """
    return next(size for size in GROUP_SIZES if num_inputs % size == 0)


def pack_int4(weight: Tensor) -> Int4Weight:
    """With the largest group that divides the inputs."""
    group_size = group_size_of(weight.shape[1])
    packed: Int4Weight = pack_by_rows(lambda rows: reference_gemm.quantize_int4(rows, group_size), weight, dim=1)
    return packed


def split_rows(weight: Tensor, multiple: int = 1) -> list[Tensor]:
    """Slices of about ``CHUNK`` weights each, of a multiple of so many rows but for the last."""
    rows = max(1, CHUNK // weight.shape[1] // multiple) * multiple
    return list(torch.split(weight, rows))


def pack_by_rows(pack: Callable[[Tensor], Packed], weight: Tensor, dim: int) -> Packed:
    """``pack`` slice by slice of the outputs, which are dimension ``dim`` of every part."""
    pieces = [pack(rows) for rows in split_rows(weight)]
    return type(pieces[0])(*(torch.cat(parts, dim=dim) for parts in zip(*pieces, strict=True)))
