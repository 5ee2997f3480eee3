"""The same model twice: on the device, and on the CPU in fp32 with torch's own operators and the very same weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from carrel.host import EngineHost

from gpu_suite.engine_run import opened
from gpu_suite.shapes import Shape

SMALL_CACHE = 256 << 20  # bytes of KV: the models are small, and clearing a large cache takes time


def open_small(shape: Shape, device: str, **options: Any) -> contextlib.AbstractContextManager[EngineHost]:
    """An engine for a comparison: few sequences, a small cache."""
    limits = {"max_num_seqs": 32, "max_num_batched_tokens": 4096}
    return opened(shape, device, **{**limits, "kv_cache_memory_bytes": SMALL_CACHE, **options})


@contextlib.contextmanager
def reference_of(host: EngineHost, shape: Shape, **options: Any) -> Iterator[EngineHost]:
    """``shape`` on the CPU in fp32, with the weights of ``host``."""
    with open_small(shape, "cpu", dtype="float32", **options) as reference:
        copy_weights(host, reference)
        yield reference


def copy_weights(source: EngineHost, target: EngineHost) -> None:
    """Every weight of the one model in ``source`` into that of ``target``."""
    pairs = zip(_runner(source)._modules(), _runner(target)._modules(), strict=True)
    for theirs, ours in pairs:
        values = dict(theirs.named_parameters())
        with torch.inference_mode():
            for name, parameter in ours.named_parameters():
                parameter.copy_(values[name].to(parameter.device, parameter.dtype))


def _runner(host: EngineHost) -> Any:
    (runner,) = host._executor.runners.values()
    return runner
