"""Which dtype a model computes in, from what was asked, what the checkpoint holds and what the device does well."""

from __future__ import annotations

import logging

import torch

from carrel.errors import UnsupportedModelError

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(asked: str, checkpoint: str, device: str) -> torch.dtype:
    """``asked`` is "auto" or a dtype by name; ``checkpoint`` the dtype of the weights; ``device`` "cpu" or "cuda…".

    On a CPU half precision is slow: float16, and bfloat16 without hardware for it, compute in the nearest dtype that
    the CPU does well. If that was asked for by name, a warning says so.

    On a GPU fp32 is slow, a tenth of bf16 and less: "auto" computes fp32 checkpoints in bfloat16, as vLLM does. Its
    range is that of fp32, so that nothing new overflows, as it could in float16, which rounds finer. Who wants fp32
    says so.

    >>> resolve_dtype("auto", "float32", "cpu"), resolve_dtype("auto", "float32", "cuda")
    (torch.float32, torch.bfloat16)
    """
    name = checkpoint if asked == "auto" else asked
    if name not in _DTYPES:
        raise UnsupportedModelError(f"dtype {name!r} is not supported; use one of {', '.join(_DTYPES)}.")
    dtype = _DTYPES[name]
    if not device.startswith("cpu"):
        return torch.bfloat16 if asked == "auto" and dtype is torch.float32 else dtype
    if dtype is torch.float32:
        return dtype
    computed = torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    if asked not in ("auto", str(computed).removeprefix("torch.")):
        logger.warning("A CPU computes slowly in %s; carrel computes in %s instead.", asked, computed)
    return computed


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
