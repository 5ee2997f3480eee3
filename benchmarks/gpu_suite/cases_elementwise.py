"""Check cases of norms, activation, rotary embedding with KV store, and pooling, at the sizes of real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from carrel.kernels import reference, reference_pooling, reference_rope
from torch import Tensor

from gpu_suite.check_case import CheckCase, in_fp32, outputs_of

EPS = 1e-6


def _randn(*shape: int, device: torch.device, dtype: torch.dtype, centre: float = 0.0) -> Tensor:
    return (torch.randn(*shape, device=device) + centre).to(dtype)


def rms_norm(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    from carrel.kernels import rms_norm as kernels

    for size in (24, 64) if tiny else (128, 896, 1024, 3584, 4096):
        for tokens in (3,) if tiny else (1, 7, 8192):
            x, residual = (_randn(tokens, size, device=device, dtype=dtype) for _ in range(2))
            weight = _randn(size, device=device, dtype=dtype, centre=1.0)
            moved = 4.0 * x.numel() * dtype.itemsize if (tokens, size) == (8192, 4096) else 0.0
            yield CheckCase(
                name=f"residual, {tokens} tokens of {size}",
                kernel=outputs_of(kernels.add_rms_norm, x, residual, weight, EPS),
                twin=outputs_of(_added, x, residual, weight),
                dtype=dtype,
                moved_bytes=moved,
            )
            yield CheckCase(
                name=f"{tokens} tokens of {size}",
                kernel=outputs_of(kernels.rms_norm, x, weight, EPS),
                twin=outputs_of(reference.rms_norm, x, weight, EPS, wide=True),
                dtype=dtype,
            )


def _added(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel's law: the sum is rounded to the dtype before it is normed."""
    total = (in_fp32(x) + in_fp32(residual)).to(x.dtype)
    return reference.rms_norm(in_fp32(total), in_fp32(weight), EPS), in_fp32(total)


def layer_norm(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    from carrel.kernels import layer_norm as kernels

    for size in (24, 64) if tiny else (384, 768, 1024):
        for tokens, with_residual in ((3, True), (3, False)) if tiny else ((1, True), (77, False), (32_768, True)):
            x = _randn(tokens, size, device=device, dtype=dtype)
            residual = _randn(tokens, size, device=device, dtype=dtype) if with_residual else None
            weight = _randn(size, device=device, dtype=dtype, centre=1.0)
            bias = _randn(size, device=device, dtype=dtype)
            arguments = (x, residual, weight, bias)
            yield CheckCase(
                name=f"{'residual, ' if with_residual else ''}{tokens} tokens of {size}",
                kernel=outputs_of(kernels.layer_norm, *arguments, EPS),
                twin=outputs_of(reference.layer_norm, *arguments, EPS, wide=True),
                dtype=dtype,
                moved_bytes=3.0 * x.numel() * dtype.itemsize if (tokens, size) == (32_768, 1024) else 0.0,
            )


def silu_mul(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    from carrel.kernels import silu_mul as kernels

    for size in (24, 64) if tiny else (3072, 4864, 12_288, 18_944):
        for tokens in (3,) if tiny else (1, 256, 8192):
            x = _randn(tokens, 2 * size, device=device, dtype=dtype)
            yield CheckCase(
                name=f"{tokens} tokens of {size}",
                kernel=outputs_of(kernels.silu_and_mul, x),
                twin=outputs_of(reference.silu_and_mul, x, wide=True),
                dtype=dtype,
                moved_bytes=3.0 * tokens * size * dtype.itemsize if (tokens, size) == (8192, 12_288) else 0.0,
            )


def rope_store(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    from carrel.kernels.rope_store import rope_store

    full = ((14, 2, 64), (28, 4, 128), (16, 8, 128), (32, 8, 128), (32, 32, 96))
    for num_heads, num_kv_heads, head_dim in ((4, 2, 16), (7, 1, 16)) if tiny else full:
        for tokens in (5,) if tiny else (1, 256, 4096):
            for with_norm in (False, True):
                inputs = _RopeInputs(num_heads, num_kv_heads, head_dim, tokens, with_norm, device, dtype)
                label = f"heads {num_heads}/{num_kv_heads}x{head_dim}, {tokens} tokens{', norm' * with_norm}"
                timed = (num_heads, tokens, with_norm) == (32, 4096, True)
                yield CheckCase(
                    name=label,
                    kernel=outputs_of(inputs.run, rope_store),
                    twin=outputs_of(inputs.run, reference_rope.rope_store, in_fp32),
                    dtype=dtype,
                    moved_bytes=float(inputs.moved_bytes) if timed else 0.0,
                )


class _RopeInputs:
    """A packed qkv, tables and a cache; some rows are padding. Each run starts from the same numbers."""

    def __init__(
        self, heads: int, kv_heads: int, dim: int, tokens: int, norm: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        block_size, num_blocks = 16, tokens // 16 + 3
        angles = torch.outer(torch.arange(512.0), 10_000.0 ** (-torch.arange(0, dim, 2) / dim))
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1).to(device)
        self.qkv = _randn(tokens, (heads + 2 * kv_heads) * dim, device=device, dtype=dtype)
        self.positions = torch.randint(0, 512, (tokens,), device=device)
        self.cache = _randn(kv_heads, num_blocks, block_size, dim, device=device, dtype=dtype)
        slots = torch.randperm(num_blocks * block_size, device=device)[:tokens]
        self.slots = torch.where(torch.arange(tokens, device=device) % 5 == 4, -1, slots)
        self.weights = [_randn(dim, device=device, dtype=dtype, centre=1.0) if norm else None for _ in range(2)]
        self.num_heads = heads
        kv_share = 2 * kv_heads / (heads + 2 * kv_heads)
        self.moved_bytes = self.qkv.numel() * dtype.itemsize * (2 + kv_share - kv_share / 2)

    def run(self, function: Any, copy: Callable[[Tensor], Tensor] = torch.clone) -> tuple[Tensor, ...]:
        """qkv, keys and values after one call on copies."""
        qkv, keys, values = copy(self.qkv), copy(self.cache), copy(self.cache)
        q_weight, k_weight = (None if weight is None else copy(weight) for weight in self.weights)
        options = {"num_heads": self.num_heads, "q_weight": q_weight, "k_weight": k_weight, "eps": EPS}
        stores = {"keys": keys, "values": values, "slot_mapping": self.slots}
        function(qkv, self.cos_sin, self.positions, **options, **stores)
        return qkv, keys, values


def pooling(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Iterator[CheckCase]:
    from carrel.kernels import pooling as kernels

    lengths = [3, 1, 17] if tiny else [512, 1, 300, 8000, 33]
    starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    cu_seqlens = torch.tensor(starts, dtype=torch.int32, device=device)
    hidden = _randn(starts[-1], 24 if tiny else 1024, device=device, dtype=dtype)
    modes: Any = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")
    for mode in modes:
        yield CheckCase(
            name=mode,
            kernel=outputs_of(kernels.pool_tokens, hidden, cu_seqlens, mode),
            twin=outputs_of(reference_pooling.pool_tokens, hidden, cu_seqlens, mode, wide=True),
            dtype=dtype,
        )
    vectors = torch.randn(40, hidden.shape[1], device=device)
    yield CheckCase(
        name="l2_normalize",
        kernel=outputs_of(kernels.l2_normalize, vectors),
        twin=outputs_of(reference_pooling.l2_normalize, vectors, wide=True),
        dtype=torch.float32,
    )
