"""The block pool: exact ids, reference counts, and the order of the free list."""

import pytest
from carrel.block_pool import BlockKey, BlockPool, FreeBlockQueue, KVBlock
from carrel.kv_cache import block_key, root_digest


def ids(blocks):
    return [block.block_id for block in blocks]


def make_pool(num_blocks=6, enable_caching=True):
    return BlockPool(num_blocks, enable_caching=enable_caching)


def chain(*blocks_of_tokens, salt=None):
    keys = []
    for tokens in blocks_of_tokens:
        keys.append(block_key(keys[-1].digest if keys else root_digest(salt), tokens))
    return keys


def cache_chain(pool, keys):
    blocks = pool.allocate(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        pool.cache(block, key)
    return blocks


def test_the_free_list_starts_in_order_of_ids():
    pool = make_pool()
    assert ids(pool.free_queue) == [0, 1, 2, 3, 4, 5]
    assert ids(pool.allocate(2)) == [0, 1]
    assert ids(pool.free_queue) == [2, 3, 4, 5]
    assert pool.num_free_blocks == 4


def test_blocks_without_content_are_reused_first():
    pool = make_pool()
    blocks = pool.allocate(3)
    pool.free(reversed(blocks))
    assert ids(pool.free_queue) == [0, 1, 2, 3, 4, 5]


def test_cached_blocks_are_evicted_last_and_tails_before_heads():
    pool = make_pool()
    blocks = cache_chain(pool, chain([1, 2], [3, 4], [5, 6]))
    pool.free(reversed(blocks))
    assert ids(pool.free_queue) == [3, 4, 5, 2, 1, 0]


def test_allocating_a_cached_block_forgets_its_content():
    pool = make_pool(3)
    keys = chain([1, 2], [3, 4], [5, 6])
    pool.free(reversed(cache_chain(pool, keys)))
    assert ids(pool.allocate(1)) == [2]
    assert [pool.find(key) is not None for key in keys] == [True, True, False]
    assert pool.num_cached_blocks == 2


def test_a_hit_takes_the_block_out_of_the_middle_of_the_free_list():
    pool = make_pool(4)
    keys = chain([1], [2], [3])
    pool.free(reversed(cache_chain(pool, keys)))
    assert ids(pool.free_queue) == [3, 2, 1, 0]
    pool.touch([pool.find(keys[1])])
    assert ids(pool.free_queue) == [3, 2, 0]
    assert pool.blocks[1].ref_count == 1


def test_a_shared_block_is_free_when_the_last_holder_gives_it_back():
    pool = make_pool(2)
    (block,) = cache_chain(pool, chain([1]))
    pool.touch([block])
    assert block.ref_count == 2
    pool.free([block])
    assert ids(pool.free_queue) == [1]
    pool.free([block])
    assert ids(pool.free_queue) == [1, 0]


def test_a_digest_that_collides_is_no_hit():
    pool = make_pool()
    (key,) = chain([1, 2])
    cache_chain(pool, [key])
    assert pool.find(key) is not None
    assert pool.find(BlockKey(key.digest, key.parent, (1, 3))) is None
    assert pool.find(BlockKey(key.digest, b"another parent", (1, 2))) is None


def test_the_first_block_of_a_content_keeps_the_name():
    pool = make_pool()
    (key,) = chain([1, 2])
    first, second = pool.allocate(2)
    pool.cache(first, key)
    pool.cache(second, key)
    assert pool.find(key) is first
    assert second.key is None
    pool.free([first, second])
    assert ids(pool.free_queue) == [1, 2, 3, 4, 5, 0]


def test_without_caching_nothing_is_found():
    pool = make_pool(enable_caching=False)
    (key,) = chain([1, 2])
    cache_chain(pool, [key])
    assert pool.find(key) is None


def test_keys_differ_by_tokens_parent_and_salt():
    same = chain([1, 2], [3, 4])
    assert chain([1, 2], [3, 4]) == same
    assert chain([1, 9], [3, 4])[1] != same[1]
    assert chain([1, 2], [3, 9])[1] != same[1]
    assert len({chain([1, 2], salt=salt)[0] for salt in (None, "", "甲", "乙")}) == 4


def test_forgetting_everything_leaves_holders_alone():
    pool = make_pool(4)
    keys = chain([1], [2])
    blocks = cache_chain(pool, keys)
    pool.forget_all()
    assert pool.find(keys[0]) is None
    assert [block.ref_count for block in blocks] == [1, 1]
    pool.check_integrity([blocks])


def test_misuse_is_a_bug():
    pool = make_pool(2)
    with pytest.raises(AssertionError, match="num_free_blocks"):
        pool.allocate(3)
    (block,) = pool.allocate(1)
    pool.free([block])
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free([block])
    with pytest.raises(AssertionError, match="not in the free list"):
        pool.free_queue.remove(KVBlock(9))
    with pytest.raises(AssertionError, match="empty free list"):
        FreeBlockQueue([]).popleft()


def test_the_integrity_check_sees_a_lost_and_a_doubly_owned_block():
    pool = make_pool(2)
    blocks = pool.allocate(1)
    pool.check_integrity([blocks])
    with pytest.raises(AssertionError, match="ref counts"):
        pool.check_integrity([])
    with pytest.raises(AssertionError, match="ref counts"):
        pool.check_integrity([blocks, blocks])
