"""The work items of a step: which sequences share a call, which blocks are gathered; attention against a naive twin."""

import random

import pytest
import torch
from carrel.kernels import reference
from carrel.layers.attention import LayerCache, TorchAttention
from carrel.layers.attention_plan import MAX_PADDING, AttentionPlan, SequenceSpan

CPU = torch.device("cpu")
BLOCK = 4


def plan_of(spans, *, causal=True):
    return AttentionPlan(spans, causal=causal, block_size=BLOCK, device=CPU)


def naive(query, key, value, window, *, causal=True):
    """One sequence, one head at a time, by the formula. All [tokens, heads, head_dim]; queries are the last tokens."""
    out = torch.empty_like(query)
    group = query.shape[1] // key.shape[1]
    offset = key.shape[0] - query.shape[0]
    for row in range(query.shape[0]):
        last = offset + row + 1 if causal else key.shape[0]
        first = 0 if window is None else max(0, last - window)
        for head in range(query.shape[1]):
            keys, values = key[first:last, head // group], value[first:last, head // group]
            weights = (keys @ query[row, head] / query.shape[2] ** 0.5).softmax(0)
            out[row, head] = weights @ values
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 4, 9])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_any_mix_of_work_is_the_formula(window, num_kv_heads):
    """Decodes, chunks and fresh prompts of many lengths in one batch; blocks shuffled; stale values in the cache."""
    generator = torch.Generator().manual_seed(0)
    lengths = [(1, 1), (1, 7), (1, 8), (1, 9), (1, 30), (5, 5), (5, 5), (3, 11), (4, 8), (6, 6), (2, 19), (1, 31)]
    random.Random(0).shuffle(lengths)
    cache = LayerCache(num_kv_heads, 80, BLOCK, 8, torch.float32, CPU)
    free = random.Random(2).sample(range(80), 80)
    spans, keys, values, queries, slots = [], [], [], [], []
    start = 0
    for query_len, seq_len in lengths:
        table = [free.pop() for _ in range(-(-seq_len // BLOCK))]
        key, value = (torch.randn(seq_len, num_kv_heads, 8, generator=generator) for _ in range(2))
        where = torch.tensor([table[i // BLOCK] * BLOCK + i % BLOCK for i in range(seq_len)])
        cache.store(key[: seq_len - query_len], value[: seq_len - query_len], where[: seq_len - query_len], None)
        spans.append(SequenceSpan(start, query_len, seq_len, table))
        keys.append(key)
        values.append(value)
        slots.append(where[seq_len - query_len :])
        queries.append(torch.randn(query_len, 4, 8, generator=generator))
        start += query_len
    plan = plan_of(spans)
    plan.slot_mapping = torch.cat(slots)
    new = [
        [rows[len(rows) - span.query_len :] for rows, span in zip(side, spans, strict=True)] for side in (keys, values)
    ]
    key, value = torch.cat(new[0]), torch.cat(new[1])
    cache.store(key, value, plan.slot_mapping, None)
    out = TorchAttention().forward(torch.cat(queries), key, value, cache, plan, window)
    expected = [naive(*parts, window) for parts in zip(queries, keys, values, strict=True)]
    torch.testing.assert_close(out, torch.cat(expected).flatten(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences_without_a_cache_see_themselves_alone(causal):
    lengths = [5, 2, 5, 1, 3, 3]
    qkv = torch.randn(3, sum(lengths), 2, 8, generator=torch.Generator().manual_seed(0))
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    plan = plan_of([SequenceSpan(s, n, n, []) for s, n in zip(starts, lengths, strict=True)], causal=causal)
    out = TorchAttention().forward(qkv[0], qkv[1], qkv[2], None, plan, None)
    expected = [naive(*qkv[:, s : s + n], None, causal=causal) for s, n in zip(starts, lengths, strict=True)]
    torch.testing.assert_close(out, torch.cat(expected).flatten(1), rtol=0, atol=1e-5)


def test_decodes_of_about_the_same_length_share_a_call_without_much_padding():
    lengths = [400, 4, 410, 5, 39, 40, 41, 380, 8]
    spans = [SequenceSpan(row, 1, n, list(range(-(-n // BLOCK)))) for row, n in enumerate(lengths)]
    items = plan_of(spans).items(None)
    assert [item.num_seqs for item in items] == [1, 2, 3, 3]
    for item in items:
        rows = range(item.rows.start, item.rows.stop) if isinstance(item.rows, slice) else item.rows.tolist()
        held = sum(len(spans[row].block_table) for row in rows)
        assert item.block_tables.numel() <= MAX_PADDING * held


def test_a_window_gathers_only_the_blocks_it_sees():
    span = SequenceSpan(0, 1, 41, list(range(11)))
    (item,) = plan_of([span]).items(6)
    assert item.block_tables.tolist() == [[8, 9, 10]]  # tokens 35 to 40 of a sequence of 41
    assert item.mask.flatten().nonzero().flatten().tolist() == [3, 4, 5, 6, 7, 8]


def test_neighbours_of_one_length_are_a_slice_and_copy_nothing():
    (item,) = plan_of([SequenceSpan(0, 3, 3, []), SequenceSpan(3, 3, 3, [])], causal=False).items(None)
    assert item.rows == slice(0, 6)
    assert item.mask is None


def test_items_are_built_once_for_each_window():
    plan = plan_of([SequenceSpan(0, 1, 9, [0, 1, 2])])
    assert plan.items(None) is plan.items(None)
    assert plan.items(4) is not plan.items(None)


def test_store_and_gather_are_inverse():
    cache = torch.zeros(2, 5, BLOCK, 3)
    values = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    slots = torch.tensor([12, 13, 14, 15, 4, 5])  # block 3, then half of block 1
    reference.store_kv(cache, values, slots)
    gathered = reference.gather_kv(cache, torch.tensor([[3, 1]]))
    torch.testing.assert_close(gathered[0, :, :6].transpose(0, 1), values)
    assert gathered[0, :, 6:].abs().sum() == 0
