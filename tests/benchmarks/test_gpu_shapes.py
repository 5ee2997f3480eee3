"""What the limits are counted from: sizes of the models, held against transformers' own; and its side of the table."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from gpu_suite import transformers_side
from gpu_suite.options import parse_options
from gpu_suite.profile import longest
from gpu_suite.section import MARK, Context
from gpu_suite.shapes import CONFIGS, shape_of
from gpu_suite.workload import Requests


def parameters(name: str) -> dict[str, int]:
    """Elements of each of transformers' parameters."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    raw = {key: value for key, value in CONFIGS[name].items() if key not in ("model_type", "torch_dtype")}
    config = AutoConfig.for_model(CONFIGS[name]["model_type"], **raw)
    with torch.device("meta"):
        model: Any = (AutoModel if name.startswith("bge") else AutoModelForCausalLM).from_config(config)
    return {key: weight.numel() for key, weight in model.named_parameters()}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_weights_that_every_token_meets(name: str) -> None:
    shape = shape_of(name, tiny=False)
    sizes = parameters(name)
    counted = {
        key: size
        for key, size in sizes.items()
        if key.endswith("weight") and "norm" not in key.lower() and "embed" not in key and "pooler" not in key
    }
    head = counted.pop("lm_head.weight", None)
    assert sum(counted.values()) == shape.linear_weights
    if not shape.is_encoder:
        assert shape.head_weights == (head or sizes["model.embed_tokens.weight"])


def test_cache_bytes_of_known_models() -> None:
    known = {"Qwen2.5-0.5B": 12_288, "Qwen3-0.6B": 114_688, "Qwen2.5-7B": 57_344, "Qwen3-8B": 147_456}
    assert {name: shape_of(name, tiny=False).kv_bytes for name in known} == known


def test_prompts_are_all_different_and_inside_the_vocabulary() -> None:
    requests = Requests("m", 1000).mixed(20, 5, 50)
    assert len({tuple(request.prompt_token_ids) for request in requests}) == 20
    assert all(10 <= token < 1000 for request in requests for token in request.prompt_token_ids)
    assert all(5 <= request.max_tokens <= 50 for request in requests)


def test_transformers_runs_the_same_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse_options(["--device", "cpu", "--tiny"])
    transformers_side.measure(Context("transformers", options, 60.0))
    lines = [line.removeprefix(MARK) for line in capsys.readouterr().out.splitlines() if line.startswith(MARK)]
    rows = {event["name"]: event["value"] for event in map(json.loads, lines) if event["event"] == "row"}
    assert {"transformers Qwen2.5-0.5B batch 1 decode", "transformers bge-m3 token ids"} <= set(rows)
    assert all(value > 0 for value in rows.values())


def test_the_longest_kernels_by_the_profiler() -> None:
    x = torch.randn(64, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            x @ x
    kernels = {item["name"]: item for item in longest(profiler.events(), "CPU")}
    assert kernels["aten::mm"]["count"] == 3
    assert 0 < kernels["aten::mm"]["share"] <= 1
    assert longest(profiler.events(), "CUDA") == []
