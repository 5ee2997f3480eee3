"""Quantised weights: nearly the same logits, mostly the same greedy tokens, fewer bytes; what is refused."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from carrel.config import EngineConfig, Quantization
from carrel.errors import InvalidParamsError
from carrel.kernels import reference_gemm
from carrel.layers.embedding import Embedding
from carrel.layers.linear import Linear
from carrel.layers.weight_formats import Fp8Rows, TorchInt4, TorchInt8, WeightFormat, set_parameter
from carrel.llm import LLM
from carrel.models.config import ModelConfig
from carrel.worker.loader import load_runner
from carrel.worker.memory import plan_memory
from carrel.worker.model_runner import ChatRunner, ModelRunner
from driving import BLOCK_SIZE, NUM_BLOCKS, Driver, chat_request, random_ids
from torch import Tensor

COSINE: dict[Quantization, float] = {"int8": 0.999, "int4": 0.88}  # of random weights, which are the hardest to round
MODELS = ["qwen2", "qwen2-untied", "qwen2-bf16", "llama", "qwen3"]


def open_quantised(folder: Path, quantization: Quantization | None, dtype: str = "auto") -> ModelRunner:
    config = ModelConfig.from_folder(folder)
    runner = load_runner(folder, config, device="cpu", dtype=dtype, block_size=BLOCK_SIZE, quantization=quantization)
    assert isinstance(runner, ChatRunner)
    runner.allocate_kv_cache(NUM_BLOCKS)
    return runner


def logits_of(runner: ModelRunner, ids: list[int]) -> Tensor:
    return Driver(runner).logits(chat_request(ids), len(ids)).float()


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("model", MODELS)
def test_logits_point_the_same_way(model: str, quantization: Quantization, tiny_models) -> None:
    ids = random_ids(40)
    expected = logits_of(open_quantised(tiny_models(model), None), ids)
    found = logits_of(open_quantised(tiny_models(model), quantization), ids)
    assert found.isfinite().all() and not torch.equal(found, expected)
    assert F.cosine_similarity(found, expected, dim=-1).min() > COSINE[quantization]


def test_greedy_tokens_are_mostly_the_same(tiny_models) -> None:
    prompts = [random_ids(9, seed=seed) for seed in range(8)]

    def first_tokens(quantization: Quantization | None) -> list[list[int]]:
        runner = open_quantised(tiny_models("qwen2"), quantization)
        return Driver(runner).generate([chat_request(ids, str(i)) for i, ids in enumerate(prompts)], 2)

    plain, int8 = first_tokens(None), first_tokens("int8")
    assert sum(a == b for a, b in zip(plain, int8, strict=True)) >= 6


def test_one_token_at_a_time_gives_the_logits_of_the_whole(tiny_models) -> None:
    """Few and many tokens take different products."""
    ids = random_ids(20)
    for quantization in ("int8", "int4"):
        runner = open_quantised(tiny_models("qwen2"), quantization)
        request, driver = chat_request(ids), Driver(runner)
        rows = torch.cat([driver.logits(request, 1) for _ in ids])
        torch.testing.assert_close(rows, logits_of(runner, ids), atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("model", ["qwen2", "qwen2-untied"])
def test_fewer_bytes_in_the_runner_and_in_the_plan(model: str, tiny_models) -> None:
    runners = {name: open_quantised(tiny_models(model), name) for name in (None, "int8", "int4")}
    sizes = {name: runner.weights_bytes for name, runner in runners.items()}
    assert sizes["int4"] < sizes["int8"] < sizes[None]
    for name, runner in runners.items():
        plan = plan_memory("cpu", {"m": runner}, EngineConfig(kv_cache_memory_bytes=1 << 20, max_model_len=64))
        assert plan.weights_bytes == sizes[name]
        dense = [p for p in runner.model.parameters() if p.is_floating_point() and p.numel() > 20_000]
        assert bool(dense) == (name is None or model == "qwen2-untied")  # an embedding that is no head stays


def packed_linear(weight: Tensor, weight_format: WeightFormat, bias: Tensor | None = None) -> Linear:
    linear = Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.format = weight_format
    set_parameter(linear, "weight", weight)
    if bias is not None:
        set_parameter(linear, "bias", bias)
    return linear


@pytest.mark.parametrize("num_tokens", [1, 8, 9, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_multiplies_as_the_weights_stand_for(dtype: torch.dtype, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    weight, bias = torch.randn(48, 96, generator=generator), torch.randn(48, generator=generator)
    weight, bias = weight.to(dtype), bias.to(dtype)
    x = torch.randn(num_tokens, 96, generator=generator).to(dtype)
    int8 = reference_gemm.quantize_int8(weight, dtype)
    int4 = reference_gemm.quantize_int4(weight, 32)
    for weight_format, expected in (
        (TorchInt8(), reference_gemm.int8_linear(x, int8, bias)),
        (TorchInt4(), reference_gemm.int4_linear(x, int4, bias)),
    ):
        found = packed_linear(weight, weight_format, bias)(x)
        assert found.dtype == dtype
        error = (found.float() - expected.float()).norm() / expected.float().norm()
        assert error < (1e-5 if dtype == torch.float32 else 1e-2)


def test_slices_of_a_large_weight_give_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(208, 64).bfloat16(), torch.randn(3, 64).bfloat16()
    for make in (TorchInt8, TorchInt4):
        whole = packed_linear(weight, make())(x)
        with monkeypatch.context() as patch:
            patch.setattr("carrel.layers.weight_formats.CHUNK", 64 * 70)
            assert torch.equal(packed_linear(weight, make())(x), whole)


def test_fp8_rows_multiply_nearly_as_dense_ones() -> None:
    weight, bias, x = torch.randn(64, 96), torch.randn(64), torch.randn(5, 96) * torch.logspace(-2, 2, 5).unsqueeze(1)
    found = packed_linear(weight, Fp8Rows(reference_gemm.quantize_rows), bias)(x)
    expected = F.linear(x, weight, bias)
    assert found.dtype == torch.float32
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.05


def test_shapes_that_a_format_cannot_take() -> None:
    assert not TorchInt4().fits(40, 64) and not TorchInt4().fits(64, 40) and TorchInt4().fits(48, 32)
    assert not Fp8Rows(reference_gemm.quantize_rows).fits(64, 24)
    assert TorchInt8().fits(3, 5)


def test_rows_of_a_packed_embedding() -> None:
    table = torch.randn(30, 16)
    embedding = Embedding(30, 16)
    embedding.format = TorchInt8()
    set_parameter(embedding, "weight", table)
    found = embedding(torch.tensor([3, 0, 29, 3]))
    assert (found - table[[3, 0, 29, 3]]).abs().max() < table.abs().max() / 127
    assert F.cosine_similarity(embedding.logits(found), found @ table.T).min() > 0.999


# -- what a user sees


def test_generate_with_quantised_weights(tiny_models) -> None:
    with LLM(str(tiny_models("qwen2")), quantization="int8", kv_cache_memory_bytes=1 << 22) as llm:
        assert llm.generate([[5, 6, 7]], use_tqdm=False)[0].outputs[0].token_ids


@pytest.mark.parametrize(
    ("quantization", "model", "sentence"),
    [
        ("fp8", "qwen2", "quantization='fp8' needs a GPU"),
        ("awq", "qwen2", "quantization must be one of int8, int4, fp8, got 'awq'"),
        ("int8", "bert-mean", "quantization is for chat models, and none is hosted"),
    ],
)
def test_refused_in_one_sentence(quantization: str, model: str, sentence: str, tiny_models) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        LLM(str(tiny_models(model)), device="cpu", quantization=quantization)  # type: ignore[arg-type]
    assert sentence in str(caught.value) and caught.value.param == "quantization"
