"""transformers on the same machine, with random weights of the same shapes. Knows nothing of carrel."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from gpu_suite.section import Context
from gpu_suite.shapes import Shape, shape_of
from gpu_suite.timing import seconds_each, synchronize

SMALL, LARGE, ENCODER = "Qwen2.5-0.5B", "Qwen2.5-7B", "bge-m3"


def measure(context: Context) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        context.note("transformers is not there")
        return
    for name, least_seconds in ((SMALL, 0.0), (ENCODER, 8.0), (LARGE, 12.0)):
        if context.remaining < least_seconds:
            context.note(f"transformers {name} not measured: no time left")
            continue
        shape = shape_of(name, tiny=context.options.tiny)
        with torch.inference_mode():
            _measure_encoder(context, shape) if shape.is_encoder else _measure_decoder(context, shape)


def _model(shape: Shape, device: str) -> Any:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    raw = {key: value for key, value in shape.config.items() if key not in ("model_type", "torch_dtype")}
    config = AutoConfig.for_model(shape.config["model_type"], **raw)
    kind = AutoModel if shape.is_encoder else AutoModelForCausalLM
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    make: Any = kind.from_config  # transformers gives it no types
    with torch.device(device):
        return make(config, dtype=dtype).eval()


def _measure_decoder(context: Context, shape: Shape) -> None:
    device, tiny = context.options.device, context.options.tiny
    model = _model(shape, device)
    batch, prompt, output = (2, 8, 8) if tiny else (64, 128, 64)
    for rows in (1, batch):
        ids = torch.randint(10, shape.config["vocab_size"], (rows, prompt), device=device)
        _generate(model, ids, 4)
        seconds = statistics.median(_decode_seconds(model, ids, output, device) for _ in range(1 if tiny else 2))
        floor = {"bytes_per_unit": shape.decode_bytes(rows, prompt), "flops_per_unit": shape.decode_flops(prompt)}
        context.row(f"transformers {shape.name} batch {rows} decode", rows * output / seconds, "tokens/s", **floor)
    count, length = (2, 16) if tiny else (16, 1024)
    ids = torch.randint(10, shape.config["vocab_size"], (count, length), device=device)
    seconds = min(seconds_each(lambda: model(ids, logits_to_keep=1), device, repeats=3, warm_ups=1))
    flops = shape.prefill_flops(length)
    context.row(f"transformers {shape.name} prefill", count * length / seconds, "tokens/s", flops_per_unit=flops)


def _decode_seconds(model: Any, ids: torch.Tensor, output: int, device: str) -> float:
    """Of ``output`` tokens after the first."""
    started = time.perf_counter()
    _generate(model, ids, 1)
    synchronize(device)
    first = time.perf_counter() - started
    started = time.perf_counter()
    _generate(model, ids, output + 1)
    synchronize(device)
    return max(1e-9, time.perf_counter() - started - first)


def _generate(model: Any, ids: torch.Tensor, tokens: int) -> None:
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, **options)


def _measure_encoder(context: Context, shape: Shape) -> None:
    device, tiny = context.options.device, context.options.tiny
    model = _model(shape, device)
    count, length = (2, 16) if tiny else (64, 512)
    ids = torch.randint(10, shape.config["vocab_size"], (count, length), device=device)
    mask = torch.ones_like(ids)
    seconds = min(seconds_each(lambda: model(ids, attention_mask=mask), device, repeats=3, warm_ups=1))
    flops = shape.prefill_flops(length)
    context.row(f"transformers {shape.name} token ids", count * length / seconds, "tokens/s", flops_per_unit=flops)
