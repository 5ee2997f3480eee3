"""Quantised weights as a GPU keeps them, under Triton's interpreter: few and many tokens, slices, a whole model."""

import os

import pytest
import torch
import torch.nn.functional as F
from carrel.kernels import reference_gemm
from carrel.layers.linear import Linear
from carrel.layers.ops import ops_for
from carrel.layers.weight_formats import set_parameter
from carrel.models.config import ModelConfig
from carrel.worker.loader import load_chat_runner
from driving import BLOCK_SIZE, NUM_BLOCKS, Driver, chat_request, open_runner, random_ids

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels for a GPU are not for a CPU")


@pytest.fixture
def ops():
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    return ops_for("cpu", "triton")


@pytest.mark.parametrize("num_tokens", [1, 3, 9])
@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
def test_few_and_many_tokens_in_slices(ops, quantization, num_tokens, monkeypatch):
    monkeypatch.setattr("carrel.layers.triton_weights.FEW_TOKENS", 2)
    monkeypatch.setattr("carrel.layers.triton_weights.MAX_DENSE", 96 * 32)  # 80 outputs are three slices
    torch.manual_seed(num_tokens)  # of 60 others none was above 0.1
    weight, bias, x = torch.randn(80, 96), torch.randn(80), torch.randn(num_tokens, 96)
    linear = Linear(96, 80, bias=True)
    linear.format = ops.weight_format(quantization)
    set_parameter(linear, "weight", weight)
    set_parameter(linear, "bias", bias)
    twins = {
        "int8": lambda: reference_gemm.int8_linear(x, reference_gemm.quantize_int8(weight), bias),
        "int4": lambda: reference_gemm.int4_linear(x, reference_gemm.quantize_int4(weight, 32), bias),
        "fp8": lambda: F.linear(x, weight, bias),
    }
    found, expected = linear(x), twins[quantization]()
    # Three bits behind the point, and the interpreter loses the carry of what rounds up to a power of two.
    limit = 0.12 if quantization == "fp8" else 1e-5
    assert (found - expected).norm() / expected.norm() < limit


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_decoder_multiplies_through_the_kernels(ops, quantization, tiny_models, monkeypatch):
    """The same quantised weights: torch's products against Triton's, for a prompt and for single tokens."""
    folder, ids = tiny_models("qwen2"), random_ids(4)
    config = ModelConfig.from_folder(folder)
    options = {"device": "cpu", "dtype": "float32", "block_size": BLOCK_SIZE}
    dense = Driver(open_runner(folder, dtype="float32")).logits(chat_request(ids), len(ids))
    plain = load_chat_runner(folder, config, quantization=quantization, **options)
    plain.allocate_kv_cache(NUM_BLOCKS)
    expected = Driver(plain).logits(chat_request(ids), len(ids))
    # torch's attention and norms, but weights as a GPU keeps them
    monkeypatch.setattr("carrel.layers.ops.TorchOps.weight_format", lambda _, scheme: ops.weight_format(scheme))
    runner = load_chat_runner(folder, config, quantization=quantization, **options)
    assert runner.weights_bytes < 0.6 * open_runner(folder, dtype="float32").weights_bytes
    runner.allocate_kv_cache(NUM_BLOCKS)
    driver, request = Driver(runner), chat_request(ids)
    found = torch.cat([driver.logits(request, count) for count in (3, 1)])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    assert F.cosine_similarity(found, dense, dim=-1).min() > 0.88
