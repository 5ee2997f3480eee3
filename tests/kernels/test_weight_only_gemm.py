"""Products with int8 and int4 weights = their twins; what quantised weights stand for."""

import pytest
import torch
from carrel.kernels import reference_gemm, weight_only_gemm
from carrel.kernels.reference_gemm import Int4Weight, Int8Weight
from torch import Tensor

# relative to the norm of the result: fp32 sums in another order, results rounded to the dtype
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SHAPES = [(1, 128, 64), (5, 256, 80), (17, 384, 33), (40, 128, 130)]  # tokens, inputs, outputs


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def int8_weight(num_outputs: int, num_inputs: int, device: torch.device) -> Int8Weight:
    return Int8Weight(*(part.to(device) for part in reference_gemm.quantize_int8(draw(num_outputs, num_inputs))))


def int4_weight(
    num_outputs: int, num_inputs: int, group: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Int4Weight:
    weight = reference_gemm.quantize_int4(draw(num_outputs, num_inputs).to(dtype), group)
    return Int4Weight(*(part.to(device) for part in weight))


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype and found.isfinite().all()
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error < TOLERANCE[found.dtype], f"relative error {error:.1e}"


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_equals_its_twin(
    shape: tuple[int, int, int], has_bias: bool, dtype: torch.dtype, device: torch.device
) -> None:
    num_tokens, num_inputs, num_outputs = shape
    x, weight = draw(num_tokens, num_inputs, seed=2).to(device, dtype), int8_weight(num_outputs, num_inputs, device)
    bias = draw(num_outputs, seed=3).to(device, dtype) if has_bias else None
    close(weight_only_gemm.int8_linear(x, weight, bias), reference_gemm.int8_linear(x, weight, bias))


@pytest.mark.parametrize("num_inputs", [100, 131])
def test_int8_with_inputs_that_fill_no_step(num_inputs: int, dtype: torch.dtype, device: torch.device) -> None:
    x, weight = draw(3, num_inputs, seed=2).to(device, dtype), int8_weight(65, num_inputs, device)
    close(weight_only_gemm.int8_linear(x, weight), reference_gemm.int8_linear(x, weight))


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("group", [128, 64, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_equals_its_twin(
    shape: tuple[int, int, int], group: int, has_bias: bool, dtype: torch.dtype, device: torch.device
) -> None:
    num_tokens, num_inputs, num_outputs = shape
    x = draw(num_tokens, num_inputs, seed=2).to(device, dtype)
    weight = int4_weight(num_outputs, num_inputs, group, device, dtype)
    bias = draw(num_outputs, seed=3).to(device, dtype) if has_bias else None
    close(weight_only_gemm.int4_linear(x, weight, bias), reference_gemm.int4_linear(x, weight, bias))


@pytest.mark.parametrize("splits", [1, 2, 3, 4])
def test_any_number_of_splits(splits: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    x, bias = draw(3, 512, seed=2).to(device), draw(70, seed=3).to(device)
    eight, four = int8_weight(70, 512, device), int4_weight(70, 512, 64, device)
    monkeypatch.setattr(weight_only_gemm, "choose_tile", lambda *_: (16, splits))
    for found, twin, weight in (
        (weight_only_gemm.int8_linear, reference_gemm.int8_linear, eight),
        (weight_only_gemm.int4_linear, reference_gemm.int4_linear, four),
    ):
        close(found(x, weight, bias), twin(x, weight, bias))  # type: ignore[operator]


def test_rows_that_lie_apart_and_no_token(dtype: torch.dtype, device: torch.device) -> None:
    wide = draw(4, 300).to(device, dtype)
    apart, eight, four = wide[:, 100:228], int8_weight(64, 128, device), int4_weight(64, 128, 64, device)
    close(weight_only_gemm.int8_linear(apart, eight), reference_gemm.int8_linear(apart, eight))
    close(weight_only_gemm.int4_linear(apart, four), reference_gemm.int4_linear(apart, four))
    assert weight_only_gemm.int8_linear(apart[:0], eight).shape == (0, 64)
    assert weight_only_gemm.int4_linear(apart[:0], four).shape == (0, 64)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 28, 38, 148])
@pytest.mark.parametrize("num_outputs", [64, 896, 37888])
def test_every_split_has_work(num_steps: int, num_outputs: int) -> None:
    for num_tokens in (1, 16, 17, 64, 200):
        _, splits = weight_only_gemm.choose_tile(num_tokens, num_outputs, num_steps, 132)
        steps = -(-num_steps // splits)
        assert (splits - 1) * steps < num_steps <= splits * steps


def test_int8_is_within_half_a_step_and_exact_at_the_largest(device: torch.device) -> None:
    weight = draw(20, 100)
    weight[3] = 0.0
    quantised = reference_gemm.quantize_int8(weight)
    error = (reference_gemm.dequantize_int8(quantised) - weight).abs()
    assert (error <= quantised.scales.unsqueeze(1) * 0.5001).all()
    assert quantised.values.abs().amax(1).tolist() == [0 if row == 3 else 127 for row in range(20)]


@pytest.mark.parametrize("group", [128, 64, 32])
def test_int4_is_within_a_step_and_keeps_zero(group: int) -> None:
    weight = draw(20, 256)
    weight[:, ::7] = 0.0
    weight[5] = weight[5].abs() + 0.5  # one sign alone
    weight[6] = 0.0
    quantised = reference_gemm.quantize_int4(weight, group)
    found = reference_gemm.dequantize_int4(quantised)
    step = quantised.scales.T.repeat_interleave(group, dim=1)
    assert ((found - weight).abs() <= step * 1.001).all()
    assert not found[:5][weight[:5] == 0].any() and not found[6].any()
    assert quantised.packed.numel() == weight.numel() // 2
