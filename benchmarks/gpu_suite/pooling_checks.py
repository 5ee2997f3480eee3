"""Vectors and scores on the device against the CPU in fp32, all inputs packed together and each alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from carrel.host import EngineHost

from gpu_suite.engine_run import run
from gpu_suite.reference_engine import open_small, reference_of
from gpu_suite.section import Context
from gpu_suite.shapes import Shape
from gpu_suite.small_shapes import pooling_shapes
from gpu_suite.workload import Requests

FloatArray = npt.NDArray[np.float32]
# Largest distance of unit vectors; of scores, whose scale is about one.
ALLOWED = {"bfloat16": 0.03, "float32": 1e-3}
ALONE = 4  # inputs that are also computed by themselves


def check(context: Context) -> None:
    device, tiny = context.options.device, context.options.tiny
    for name, shape in pooling_shapes(tiny=tiny).items():
        for dtype in ("bfloat16", "float32") if device.startswith("cuda") else ("float32",):
            _check_shape(context, f"{name} {dtype}", shape, dtype)


def _check_shape(context: Context, label: str, shape: Shape, dtype: str) -> None:
    requests = Requests(shape.name, shape.config["vocab_size"])
    lengths = (1, 5, 30, 17) if context.options.tiny else (1, 2, 17, 300, 512, 64, 1000, 33, 128, 5, 511)
    prompts = [requests.prompt(length) for length in lengths]
    with open_small(shape, context.options.device, dtype=dtype) as host:
        packed = pooled(host, prompts)
        alone = np.concatenate([pooled(host, [prompt]) for prompt in prompts[:ALONE]])
        with reference_of(host, shape) as reference:
            expected = pooled(reference, prompts)
    _verdict(context, f"{label}: packed = CPU in fp32", packed, expected, dtype)
    _verdict(context, f"{label}: alone = CPU in fp32", alone, expected[:ALONE], dtype)


def pooled(host: EngineHost, prompts: list[list[int]]) -> FloatArray:
    """[len(prompts), dim] vectors or logits, in the order of ``prompts``."""
    (model,) = host.models
    requests = Requests(model, 2)
    result = run(host, [requests.pooling(0, prompt=prompt) for prompt in prompts])
    return np.stack([result.pooled[request.request_id] for request in result.requests])


def _verdict(context: Context, name: str, got: FloatArray, expected: FloatArray, dtype: str) -> None:
    distance = float(np.linalg.norm(got - expected, axis=1).max())
    context.check(name, distance <= ALLOWED[dtype], worst_distance=round(distance, 6), allowed=ALLOWED[dtype])
