"""Check cases of norms, activation, rotary embedding with KV store, and pooling, at the sizes of real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from carrel.kernels import reference, reference_pooling, reference_rope
from torch import Tensor

from gpu_suite.check_case import CaseSet, CheckCase, in_fp32, outputs_of

EPS = 1e-6
Sizes = tuple[tuple[int, int], ...]  # tokens, and the size of a row

RMS_SIZES: dict[CaseSet, Sizes] = {
    "tiny": ((3, 24), (2, 64)),
    "full": ((1, 128), (1, 896), (7, 1024), (8192, 3584), (256, 4096)),
    "timed": ((256, 4096), (8192, 4096)),
}
LAYER_NORM_SIZES: dict[CaseSet, Sizes] = {
    "tiny": ((3, 24), (2, 64)),
    "full": ((1, 384), (77, 768), (8192, 1024)),
    "timed": ((65_536, 1024),),
}
SILU_SIZES: dict[CaseSet, Sizes] = {
    "tiny": ((3, 24), (2, 64)),
    "full": ((1, 3072), (256, 4864), (4096, 12_288), (7, 18_944)),
    "timed": ((256, 12_288), (8192, 12_288)),
}
Heads = tuple[int, int, int, int, bool]  # query heads, key heads, head_dim, tokens, with head norms
ROPE_SIZES: dict[CaseSet, tuple[Heads, ...]] = {
    "tiny": ((4, 2, 16, 5, True), (7, 1, 16, 5, False)),
    "full": (
        (14, 2, 64, 1, False),
        (14, 2, 64, 4096, False),
        (28, 4, 128, 256, False),
        (16, 8, 128, 1, True),
        (32, 8, 128, 4096, True),
        (32, 32, 96, 256, False),
    ),
    "timed": ((32, 8, 128, 256, True), (32, 8, 128, 8192, True)),
}


def _randn(*shape: int, device: torch.device, dtype: torch.dtype, centre: float = 0.0) -> Tensor:
    return (torch.randn(*shape, device=device) + centre).to(dtype)


def rms_norm(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels import rms_norm as kernels

    for tokens, size in RMS_SIZES[wanted]:
        x, residual = (_randn(tokens, size, device=device, dtype=dtype) for _ in range(2))
        weight = _randn(size, device=device, dtype=dtype, centre=1.0)
        yield CheckCase(
            name=f"residual, {tokens} tokens of {size}",
            kernel=outputs_of(kernels.add_rms_norm, x, residual, weight, EPS),
            twin=outputs_of(_added, x, residual, weight),
            dtype=dtype,
            moved_bytes=4.0 * x.nbytes,
        )
        if wanted != "timed":
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


def layer_norm(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels import layer_norm as kernels

    for tokens, size in LAYER_NORM_SIZES[wanted]:
        x, residual = (_randn(tokens, size, device=device, dtype=dtype) for _ in range(2))
        weight = _randn(size, device=device, dtype=dtype, centre=1.0)
        bias = _randn(size, device=device, dtype=dtype)
        for other in (residual,) if wanted == "timed" else (residual, None):
            arguments = (x, other, weight, bias, EPS)
            yield CheckCase(
                name=f"{'' if other is None else 'residual, '}{tokens} tokens of {size}",
                kernel=outputs_of(kernels.layer_norm, *arguments),
                twin=outputs_of(reference.layer_norm, *arguments, wide=True),
                dtype=dtype,
                moved_bytes=3.0 * x.nbytes,
            )


def silu_mul(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels import silu_mul as kernels

    for tokens, size in SILU_SIZES[wanted]:
        x = _randn(tokens, 2 * size, device=device, dtype=dtype)
        yield CheckCase(
            name=f"{tokens} tokens of {size}",
            kernel=outputs_of(kernels.silu_and_mul, x),
            twin=outputs_of(reference.silu_and_mul, x, wide=True),
            dtype=dtype,
            moved_bytes=1.5 * x.nbytes,
        )


def rope_store(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels.rope_store import rope_store

    for sizes in ROPE_SIZES[wanted]:
        inputs = _RopeInputs(sizes, device, dtype)
        num_heads, num_kv_heads, head_dim, tokens, with_norm = sizes
        in_place = outputs_of(inputs.call, rope_store, inputs.qkv, inputs.cache, inputs.cache.clone())
        yield CheckCase(
            name=f"heads {num_heads}/{num_kv_heads}x{head_dim}, {tokens} tokens{', norm' * with_norm}",
            kernel=in_place if wanted == "timed" else outputs_of(inputs.copied, rope_store, torch.clone),
            twin=outputs_of(inputs.copied, reference_rope.rope_store, in_fp32),
            dtype=dtype,
            moved_bytes=float(inputs.moved_bytes),
        )


class _RopeInputs:
    """A packed qkv, tables and a cache; some rows are padding."""

    def __init__(self, sizes: Heads, device: torch.device, dtype: torch.dtype) -> None:
        heads, kv_heads, dim, tokens, norm = sizes
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
        values_share = kv_heads / (heads + 2 * kv_heads)
        # queries and keys are read and written, values read; keys and values of four rows in five are stored
        self.moved_bytes = self.qkv.nbytes * (2 - values_share + 0.8 * 2 * values_share)

    def copied(self, function: Any, copy: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        """qkv, keys and values after one call on copies: each run starts from the same numbers."""
        return self.call(function, copy(self.qkv), copy(self.cache), copy(self.cache), copy)

    def call(
        self, function: Any, qkv: Tensor, keys: Tensor, values: Tensor, copy: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        weights = [weight if weight is None or copy is None else copy(weight) for weight in self.weights]
        options = {"num_heads": self.num_heads, "q_weight": weights[0], "k_weight": weights[1], "eps": EPS}
        stores = {"keys": keys, "values": values, "slot_mapping": self.slots}
        function(qkv, self.cos_sin, self.positions, **options, **stores)
        return qkv, keys, values


def pooling(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels import pooling as kernels

    lengths = [3, 1, 17] if wanted == "tiny" else [512] * 128 if wanted == "timed" else [512, 1, 300, 8000, 33]
    starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    cu_seqlens = torch.tensor(starts, dtype=torch.int32, device=device)
    hidden = _randn(starts[-1], 24 if wanted == "tiny" else 1024, device=device, dtype=dtype)
    modes: Any = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")
    for mode in ("mean",) if wanted == "timed" else modes:
        yield CheckCase(
            name=f"{mode}, {len(lengths)} sequences",
            kernel=outputs_of(kernels.pool_tokens, hidden, cu_seqlens, mode),
            twin=outputs_of(reference_pooling.pool_tokens, hidden, cu_seqlens, mode, wide=True),
            dtype=dtype,
            moved_bytes=float(hidden.nbytes),
        )
    if wanted == "timed":
        return
    vectors = torch.randn(40, hidden.shape[1], device=device)
    yield CheckCase(
        name="l2_normalize",
        kernel=outputs_of(kernels.l2_normalize, vectors),
        twin=outputs_of(reference_pooling.l2_normalize, vectors, wide=True),
        dtype=torch.float32,
    )
