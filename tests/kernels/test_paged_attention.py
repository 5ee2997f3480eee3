"""Decode attention over the paged cache = its twin, whatever the splits."""

import pytest
import torch
from attention_cases import TOLERANCE, paged_case
from carrel.kernels import reference_attention
from carrel.kernels.paged_attention import choose_num_splits, paged_attention

LENGTHS = [1, 15, 16, 17, 33, 100]


def check(case, dtype, tolerance=None, **options):
    tolerance = tolerance or TOLERANCE[dtype]
    got = paged_attention(*case.tensors, scale=case.scale, **options)
    expected = reference_attention.paged_attention(*case.tensors, scale=case.scale, **options)
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    return got


@pytest.mark.parametrize("num_splits", [1, 2, 5])
@pytest.mark.parametrize("window", [None, 1, 16, 40])
def test_lengths_windows_splits(num_splits, window, dtype, device):
    check(paged_case(LENGTHS, device=device, dtype=dtype), dtype, window=window, num_splits=num_splits)


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize(("num_kv_heads", "group"), [(2, 1), (1, 2), (3, 4), (2, 7), (1, 8), (1, 17)])
def test_query_heads_that_share_a_key_head(num_kv_heads, group, num_splits, dtype, device):
    case = paged_case([33, 5], device=device, dtype=dtype, num_kv_heads=num_kv_heads, group=group)
    check(case, dtype, num_splits=num_splits)


@pytest.mark.parametrize("head_dim", [8, 16, 64, 80, 96, 128])
def test_head_dims(head_dim, dtype, device):
    case = paged_case([100, 17], device=device, dtype=dtype, head_dim=head_dim, group=7, num_kv_heads=1)
    check(case, dtype, num_splits=2)


@pytest.mark.parametrize("block_size", [4, 8, 32, 256])
def test_block_sizes(block_size, dtype, device):
    check(paged_case([1, 70, 300], device=device, dtype=dtype, block_size=block_size), dtype, num_splits=2)


@pytest.mark.parametrize("num_splits", [1, 4, 32])
def test_long_sequences_fill_their_splits(num_splits, dtype, device):
    """Between none and all of the splits hold tokens; the last one is cut short."""
    case = paged_case([1000, 129, 128], device=device, dtype=dtype, num_kv_heads=1)
    check(case, dtype, num_splits=num_splits)
    check(case, dtype, num_splits=num_splits, window=300)


@pytest.mark.parametrize("num_splits", [1, 3])
def test_padding_rows_give_zeros(num_splits, dtype, device):
    got = check(paged_case([0, 20, 0, 0], device=device, dtype=dtype), dtype, num_splits=num_splits)
    assert not got[[0, 2, 3]].any()
    assert got[1].isfinite().all()


def test_no_sequence_and_rows_that_lie_apart(dtype, device):
    case = paged_case([20, 40], device=device, dtype=dtype)
    wide = torch.randn(2, 9, case.query.shape[2], generator=torch.Generator().manual_seed(5)).to(device, dtype)
    case.query = wide[:, 3:7]  # queries in the middle of one product with keys and values
    check(case, dtype, num_splits=2)
    empty = paged_attention(case.query[:0], case.keys, case.values, case.block_tables[:0], case.seq_lens[:0], scale=1.0)
    assert empty.shape == (0, 4, 16)


@pytest.mark.parametrize("num_splits", [1, 3])
def test_a_row_that_is_not_finite_stays_alone(num_splits, dtype, device):
    case = paged_case([20, 300], device=device, dtype=dtype)
    case.query[0] = torch.nan
    got = paged_attention(*case.tensors, scale=case.scale, num_splits=num_splits)
    assert got[0].isnan().all()
    assert got[1].isfinite().all()


def test_large_logits_do_not_overflow(dtype, device):
    case = paged_case([40, 300], device=device, dtype=dtype)
    case.query *= 100  # logits of some hundred: their last digit is 3e-5
    check(case, dtype, 1e-3, num_splits=3)


def test_choice_of_splits():
    assert choose_num_splits(1, 2, 32768, 132) == 64
    assert choose_num_splits(12, 8, 131072, 132) == 2  # a batch of twelve still splits its long contexts
    assert choose_num_splits(256, 8, 32768, 132) == 1
    assert choose_num_splits(1, 8, 100, 132) == 1
    assert choose_num_splits(0, 8, 0, 132) == 1
