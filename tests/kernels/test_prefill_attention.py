"""Prefill attention over the paged cache = its twin: prompts, chunks behind a cached prefix, mixes of both."""

import pytest
import torch
from attention_cases import TOLERANCE, paged_case
from carrel.kernels import reference_attention
from carrel.kernels.prefill_attention import prefill_attention

FRESH = [1, 15, 16, 17, 33, 100]


def check(case, dtype, tolerance=None, **options):
    tolerance = tolerance or TOLERANCE[dtype]
    arguments = (*case.tensors, case.cu_seqlens_q)
    got = prefill_attention(*arguments, scale=case.scale, **options)
    expected = reference_attention.prefill_attention(*arguments, scale=case.scale, **options)
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    return got


@pytest.mark.parametrize("window", [None, 1, 16, 40])
def test_whole_prompts(window, dtype, device):
    check(paged_case(FRESH, query_lens=FRESH, device=device, dtype=dtype), dtype, window=window)


@pytest.mark.parametrize("window", [None, 1, 17, 70, 200])
def test_chunks_behind_a_cached_prefix(window, dtype, device):
    """One token or many, with any prefix: a mixed step."""
    case = paged_case([1, 100, 33, 150, 64, 80], query_lens=[1, 1, 17, 100, 64, 3], device=device, dtype=dtype)
    check(case, dtype, window=window)


@pytest.mark.parametrize(("num_kv_heads", "group"), [(2, 1), (1, 2), (3, 4), (2, 7), (1, 8), (1, 17), (1, 71)])
def test_query_heads_that_share_a_key_head(num_kv_heads, group, dtype, device):
    case = paged_case([33, 90], query_lens=[20, 40], device=device, dtype=dtype, num_kv_heads=num_kv_heads, group=group)
    check(case, dtype)


@pytest.mark.parametrize("head_dim", [8, 64, 80, 96, 128])
def test_head_dims(head_dim, dtype, device):
    case = paged_case([150, 17], query_lens=[30, 17], device=device, dtype=dtype, head_dim=head_dim, group=3)
    check(case, dtype)


@pytest.mark.parametrize("block_size", [4, 32, 256])
def test_block_sizes(block_size, dtype, device):
    check(paged_case([70, 300], query_lens=[70, 40], device=device, dtype=dtype, block_size=block_size), dtype)


@pytest.mark.parametrize("max_query_len", [2, 8, 200])
def test_the_size_of_a_tile_changes_nothing(max_query_len, dtype, device):
    case = paged_case([40, 2, 66], query_lens=[2, 1, 2], device=device, dtype=dtype, group=3)
    check(case, dtype, max_query_len=max_query_len, num_rows=50)


def test_rows_outside_of_the_sequences_are_left_alone(dtype, device):
    """Decodes before and padding behind are not this kernel's; sequences without a row neither."""
    case = paged_case([9, 40, 7, 66], query_lens=[3, 20, 0, 30], device=device, dtype=dtype)
    case.query = torch.cat([case.query, case.query[:5]])
    out = torch.full_like(case.query, 7.0)
    arguments = (case.query, case.keys, case.values, case.block_tables[1:], case.seq_lens[1:], case.cu_seqlens_q[1:])
    got = prefill_attention(*arguments, scale=case.scale, out=out)
    expected = reference_attention.prefill_attention(*arguments, scale=case.scale, out=torch.full_like(out, 7.0))
    assert got is out
    torch.testing.assert_close(got, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert (got[:3] == 7).all()
    assert (got[53:] == 7).all()


def test_queries_in_one_product_with_keys_and_values(dtype, device):
    case = paged_case([40, 20], query_lens=[10, 20], device=device, dtype=dtype)
    wide = torch.randn(30, 9, 16, generator=torch.Generator().manual_seed(5)).to(device, dtype)
    case.query = wide[:, 3:7]
    check(case, dtype)


def test_no_row(dtype, device):
    case = paged_case([40], device=device, dtype=dtype)
    got = prefill_attention(case.query[:0], *case.tensors[1:], case.cu_seqlens_q, scale=1.0)
    assert got.shape == (0, 4, 16)


def test_large_logits_do_not_overflow(dtype, device):
    case = paged_case([90, 40], query_lens=[30, 40], device=device, dtype=dtype)
    case.query *= 100  # logits of some hundred: their last digit is 3e-5
    check(case, dtype, 1e-3)
