"""Attention of packed sequences over themselves = its twin, both ways and causal."""

import pytest
import torch
from attention_cases import TOLERANCE
from carrel.kernels import reference_attention
from carrel.kernels.varlen_attention import varlen_attention

LENGTHS = [1, 15, 16, 17, 0, 33, 64, 100]


def packed(lengths, num_heads, num_kv_heads, head_dim, dtype, device):
    """Query, key and value as views of one fused projection, and where the sequences begin."""
    generator = torch.Generator().manual_seed(0)
    heads = num_heads + 2 * num_kv_heads
    fused = torch.randn(sum(lengths), heads, head_dim, generator=generator).to(device, dtype)
    starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    cu_seqlens = torch.tensor(starts, dtype=torch.int32, device=device)
    return *fused.split((num_heads, num_kv_heads, num_kv_heads), dim=1), cu_seqlens


def check(arguments, dtype, **options):
    query = arguments[0]
    options = {"max_seq_len": 128, "scale": query.shape[2] ** -0.5, **options}
    got = varlen_attention(*arguments, **options)
    expected = reference_attention.varlen_attention(*arguments, **options)
    torch.testing.assert_close(got, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("max_seq_len", [100, 5000])
def test_lengths(max_seq_len, dtype, device):
    check(packed(LENGTHS, 3, 3, 16, dtype, device), dtype, max_seq_len=max_seq_len)


@pytest.mark.parametrize("head_dim", [8, 32, 64, 80, 96, 128])
def test_head_dims(head_dim, dtype, device):
    check(packed([70, 3, 40], 2, 2, head_dim, dtype, device), dtype)


def test_short_sequences_take_small_tiles(dtype, device):
    check(packed([3, 7, 1, 8], 2, 2, 32, dtype, device), dtype, max_seq_len=8)


@pytest.mark.parametrize("window", [None, 1, 16, 40])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(2, 2), (4, 2), (7, 1), (16, 2)])
def test_causal(num_heads, num_kv_heads, window, dtype, device):
    check(packed([1, 17, 100], num_heads, num_kv_heads, 16, dtype, device), dtype, causal=True, window=window)


def test_nothing(dtype, device):
    query, key, value, cu_seqlens = packed([3], 2, 2, 16, dtype, device)
    got = varlen_attention(query[:0], key[:0], value[:0], cu_seqlens[:1], max_seq_len=0, scale=1.0)
    assert got.shape == (0, 2, 16)
