"""All sections in their order: what proves correctness first, then what has targets, then the comparison.

Importing this loads no torch: a section's own module is imported when it runs, so that one that cannot even be imported
fails alone.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from gpu_suite.section import Context, Section

KERNELS = Path(__file__).resolve().parents[2] / "engine" / "carrel" / "kernels"
SMALL_SHAPES = ("head norms", "biases", "window")  # of small_shapes.py, whose import would need no torch either
CHAT_SHAPES = {"Qwen2.5-0.5B": 50.0, "Qwen3-8B": 60.0, "Qwen2.5-7B": 55.0, "Qwen3-0.6B": 50.0}  # budgets in seconds


def kernel_names() -> list[str]:
    """Files that hold kernels, by what every one of them has: cases for the offline compiler."""
    files = sorted(KERNELS.glob("*.py"))
    return [path.stem for path in files if "\nCOMPILE_CASES" in path.read_text(encoding="utf-8")]


def all_sections(device: str) -> list[Section]:
    dtypes = ("bfloat16", "float32") if device.startswith("cuda") else ("float32",)
    sections = [_check("machine", 25.0, "machine", "describe")]
    sections += [  # first, because they take longest
        _check(f"generation {name} {dtype}", 100.0, "generation_checks", "check", name, dtype)
        for dtype in dtypes
        for name in SMALL_SHAPES
    ]
    sections += [_check("pooling", 60.0, "pooling_checks", "check")]
    sections += [_check("quantization", 40.0, "quantization", "check")]
    sections += [_check(f"kernel {name}", 60.0, "kernel_checks", "check", name) for name in kernel_names()]
    sections += [_section("ceilings", 20.0, "ceilings", "measure")]
    sections += [_section("kernel speed", 25.0, "kernel_checks", "measure")]
    sections += [_section("torch attention speed", 10.0, "attention_baselines", "measure")]
    sections += [_section(f"chat {name}", budget, "chat", "measure", name) for name, budget in CHAT_SHAPES.items()]
    sections += [_section("embed bge-m3", 30.0, "pooling", "measure", "bge-m3")]
    sections += [_section("rerank bge-reranker-v2-m3", 25.0, "pooling", "measure", "bge-reranker-v2-m3")]
    sections += [_section("transformers", 40.0, "transformers_side", "measure")]
    return [*sections, _section("quantized Qwen3-8B", 50.0, "quantization", "measure")]


def _check(name: str, budget_seconds: float, module: str, function: str, *arguments: str) -> Section:
    return replace(_section(name, budget_seconds, module, function, *arguments), is_check=True)


def _section(name: str, budget_seconds: float, module: str, function: str, *arguments: str) -> Section:
    def run(context: Context) -> None:
        getattr(importlib.import_module(f"gpu_suite.{module}"), function)(context, *arguments)

    return Section(name=name, budget_seconds=budget_seconds, run=run)
