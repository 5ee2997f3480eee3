"""Check cases of the attention kernels, at the head counts of the models that are measured.

The paged caches are those of the kernels' tests: shuffled blocks, NaN where nothing was stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from attention_cases import PagedCase, paged_case
from carrel.kernels import reference_attention as twins

from gpu_suite.check_case import CaseSet, CheckCase, outputs_of

Heads = tuple[int, int, int]  # query heads, key heads, head_dim
HEADS: dict[str, Heads] = {
    "Qwen2.5-0.5B": (14, 2, 64),
    "Qwen3-0.6B": (16, 8, 128),
    "Qwen2.5-7B": (28, 4, 128),
    "Qwen3-8B": (32, 8, 128),
}
SMALL_HEADS: dict[str, Heads] = {"group 2": (4, 2, 16), "group 7": (7, 1, 16)}
DECODES = (("Qwen3-8B", 256, 200), ("Qwen3-8B", 1, 8192), ("Qwen3-0.6B", 256, 1100), ("Qwen2.5-0.5B", 256, 200))
MAX_MODEL_LEN = 32_768  # decides the splits, as it does in the engine


def paged_attention(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels.paged_attention import choose_num_splits, paged_attention

    if wanted == "timed":
        for name, batch, context in DECODES:
            num_kv_heads, head_dim = HEADS[name][1:]
            case = _case([context] * batch, device, dtype, HEADS[name])
            splits = choose_num_splits(batch, num_kv_heads, MAX_MODEL_LEN, _num_sms(device))
            moved = 2.0 * batch * context * num_kv_heads * head_dim * dtype.itemsize
            label = f"{name} batch {batch} context {context}"
            yield _paged(label, paged_attention, case, dtype, {"num_splits": splits}, moved)
        return
    tiny = wanted == "tiny"
    lengths = [1, 16, 17, 40] if tiny else [1, 16, 17, 100, 1000, 4097, 512, 33, 0, 2048]
    plans: list[tuple[int, int | None]] = [(1, None), (3, None), (4, 20)] if tiny else [(1, None), (16, None)]
    for index, (name, heads) in enumerate((SMALL_HEADS if tiny else HEADS).items()):
        case = _case(lengths, device, dtype, heads)
        for num_splits, window in [*plans, *([(5, 300), (1, 20)] if index == 0 and not tiny else [])]:
            label = f"{name} splits={num_splits}{f' window={window}' if window else ''}"
            yield _paged(label, paged_attention, case, dtype, {"num_splits": num_splits, "window": window})


def _paged(
    label: str, launch: Any, case: PagedCase, dtype: torch.dtype, options: dict[str, Any], moved_bytes: float = 0.0
) -> CheckCase:
    return CheckCase(
        name=label,
        kernel=outputs_of(launch, *case.tensors, scale=case.scale, **options),
        twin=outputs_of(twins.paged_attention, *case.tensors, wide=True, scale=case.scale, **options),
        dtype=dtype,
        moved_bytes=moved_bytes,
    )


def prefill_attention(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    if wanted == "timed":
        for name, count, length in (("Qwen3-8B", 8, 1024), ("Qwen3-8B", 1, 8192), ("Qwen2.5-0.5B", 8, 1024)):
            num_heads, _, head_dim = HEADS[name]
            case = _case([length] * count, device, dtype, HEADS[name], [length] * count)
            flops = 2.0 * count * num_heads * head_dim * length**2  # causal: half of 4 n² d
            yield _prefill(f"{name} {count} prompts of {length}", case, dtype, {"max_query_len": length}, flops)
        return
    shapes: list[tuple[str, list[int], list[int], int | None]] = [
        ("whole prompts", [40, 17, 3], [40, 17, 3], None),
        ("chunks behind a cached prefix", [40, 30, 17], [24, 1, 16], None),
        ("window", [40, 33], [40, 20], 12),
    ]
    if wanted == "full":
        shapes += [
            ("mix of long and short", [1500, 777, 64, 1, 300], [1500, 100, 64, 1, 1], None),
            ("long window", [1500, 700], [900, 700], 256),
        ]
    for name, heads in (HEADS if wanted == "full" else SMALL_HEADS).items():
        for label, seq_lens, query_lens, window in shapes:
            case = _case(seq_lens, device, dtype, heads, query_lens)
            yield _prefill(f"{name} {label}", case, dtype, {"window": window})


def _prefill(label: str, case: PagedCase, dtype: torch.dtype, options: dict[str, Any], flops: float = 0.0) -> CheckCase:
    from carrel.kernels.prefill_attention import prefill_attention

    arguments = (*case.tensors, case.cu_seqlens_q)
    return CheckCase(
        name=label,
        kernel=outputs_of(prefill_attention, *arguments, scale=case.scale, **options),
        twin=outputs_of(twins.prefill_attention, *arguments, wide=True, scale=case.scale, **options),
        dtype=dtype,
        flops=flops,
    )


def varlen_attention(device: torch.device, dtype: torch.dtype, wanted: CaseSet) -> Iterator[CheckCase]:
    from carrel.kernels.varlen_attention import varlen_attention

    tiny = wanted == "tiny"
    mixed = [3, 40, 1, 17] if tiny else [3, 512, 1, 300, 64, 1000]
    encoder: Heads = (4, 4, 16) if tiny else (16, 16, 64)
    embedder: Heads = (4, 2, 16) if tiny else (16, 8, 128)
    plans: list[tuple[str, Heads, list[int], dict[str, Any]]] = [
        ("encoder", encoder, mixed, {}),
        ("decoder", embedder, mixed, {"causal": True}),
        ("decoder window", embedder, mixed, {"causal": True, "window": 20}),
    ]
    if wanted == "timed":
        plans = [("bge-m3 128 inputs of 512", encoder, [512] * 128, {})]
    for label, (num_heads, num_kv_heads, head_dim), lengths, options in plans:
        starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
        fused = torch.randn(starts[-1], num_heads + 2 * num_kv_heads, head_dim, device=device).to(dtype)
        parts = torch.split(fused, [num_heads, num_kv_heads, num_kv_heads], dim=1)
        cu_seqlens = torch.tensor(starts, dtype=torch.int32, device=device)
        options = {"max_seq_len": max(lengths), "scale": head_dim**-0.5, **options}
        yield CheckCase(
            name=label,
            kernel=outputs_of(varlen_attention, *parts, cu_seqlens, **options),
            twin=outputs_of(twins.varlen_attention, *parts, cu_seqlens, wide=True, **options),
            dtype=dtype,
            flops=4.0 * sum(length**2 for length in lengths) * num_heads * head_dim,
        )


def _case(
    seq_lens: list[int],
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    query_lens: list[int] | None = None,
) -> PagedCase:
    num_heads, num_kv_heads, head_dim = heads
    group = num_heads // num_kv_heads
    sizes = {"num_kv_heads": num_kv_heads, "group": group, "head_dim": head_dim}
    return paged_case(seq_lens, device=device, dtype=dtype, query_lens=query_lens, **sizes)


def _num_sms(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
