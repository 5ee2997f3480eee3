"""Weights in oneDNN's blocks beside torch's own product."""

import pytest
import torch
import torch.nn.functional as F
from carrel.layers.linear import Linear
from carrel.layers.onednn import OneDnnDense, has_blocked_products, prepare_dense
from carrel.layers.weight_formats import set_parameter

needs_blocks = pytest.mark.skipif(not has_blocked_products(torch.float32), reason="torch was built without oneDNN")


@needs_blocks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [0, 1, 12, 65])
@pytest.mark.parametrize("shape", [(48, 40), (384, 1536), (7, 13)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_torchs(dtype, num_tokens, shape, bias):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator).to(dtype)
    some = torch.randn(shape[0], generator=generator).to(dtype) if bias else None
    x = torch.randn(2 * num_tokens, shape[1], generator=generator).to(dtype)[::2]  # rows that lie apart
    found = OneDnnDense().linear(x, OneDnnDense().pack(weight), some)
    close = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.3, "rtol": 2e-2}
    torch.testing.assert_close(found, F.linear(x, weight, some), **close)


@needs_blocks
def test_loading_packs_and_closing_gives_back():
    with torch.device("meta"):
        linear = Linear(16, 8, bias=True)
    prepare_dense(linear, "cpu", torch.float32)
    weight, bias = torch.randn(8, 16), torch.randn(8)
    set_parameter(linear, "weight", weight)
    set_parameter(linear, "bias", bias)
    assert linear.weight is None and linear.packed.blocks.is_mkldnn
    x = torch.randn(5, 16)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), F.linear(x, weight, bias), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() * p.element_size() for p in linear.parameters()) == 4 * (8 * 16 + 8)


def test_other_devices_and_dtypes_keep_their_rows():
    with torch.device("meta"):
        linear = Linear(16, 8, bias=False)
    prepare_dense(linear, "cuda:0", torch.float32)
    prepare_dense(linear, "cpu", torch.float64)
    assert linear.format is None
