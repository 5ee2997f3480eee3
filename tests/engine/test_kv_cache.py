"""The KV cache manager: exact block ids, sharing, salts, eviction order, and what it does when there is no room."""

import pytest
from carrel.kv_cache import KVCacheManager
from engine_fakes import chat_request
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

BLOCK_SIZE = 4


def make_cache(num_blocks=10, enable_caching=True):
    return KVCacheManager(num_blocks, BLOCK_SIZE, enable_caching=enable_caching, max_model_len=1000)


def compute(cache, request, num_tokens=None):
    """Admit ``request`` and let all its tokens (or so many) be computed; its block ids, or None."""
    blocks, num_cached = cache.get_computed_blocks(request)
    num_tokens = request.num_tokens if num_tokens is None else num_tokens
    block_ids = cache.allocate_slots(request, num_tokens - num_cached, blocks)
    if block_ids is not None:
        request.num_computed_tokens = num_tokens
        cache.commit(request, request.num_computed_tokens)
    return block_ids


def free_ids(cache):
    return [block.block_id for block in cache.pool.free_queue]


def test_blocks_are_taken_in_order_and_only_as_needed():
    cache = make_cache()
    request = chat_request("a", range(9))
    assert compute(cache, request) == [0, 1, 2]
    for token, expected in [(50, 3), (51, 3), (52, 3), (53, 4)]:
        assert cache.num_free_blocks == 10 - len(cache.allocate_slots(request, 0))
        request.output_token_ids.append(token)
        assert len(cache.allocate_slots(request, 1)) == expected
        request.num_computed_tokens += 1
    assert cache.allocate_slots(request, 0) == [0, 1, 2, 3]
    cache.check_integrity()


def test_a_second_request_shares_full_blocks_and_recomputes_the_last_token():
    cache = make_cache()
    first, second = chat_request("a", range(8)), chat_request("b", range(8))
    assert compute(cache, first) == [0, 1]
    blocks, num_cached = cache.get_computed_blocks(second)
    assert ([block.block_id for block in blocks], num_cached) == ([0], 4)  # not 8: the last token needs its logits
    assert compute(cache, second) == [0, 2]
    assert [block.ref_count for block in cache.pool.blocks[:3]] == [2, 1, 1]
    assert (cache.num_queried_tokens, cache.num_hit_tokens) == (16, 4)
    cache.check_integrity()


def test_one_more_token_and_all_full_blocks_are_hit():
    cache = make_cache()
    compute(cache, chat_request("a", range(8)))
    blocks, num_cached = cache.get_computed_blocks(chat_request("b", [*range(8), 99]))
    assert ([block.block_id for block in blocks], num_cached) == ([0, 1], 8)


def test_nothing_is_found_before_it_is_written():
    cache = make_cache()
    first = chat_request("a", range(12))
    cache.allocate_slots(first, 12)
    second = chat_request("b", range(12))
    assert cache.get_computed_blocks(second) == ([], 0)
    first.num_computed_tokens = 7  # a chunk: one full block and a part
    cache.commit(first, first.num_computed_tokens)
    assert cache.get_computed_blocks(second)[1] == 4


def test_generated_tokens_are_found_by_the_next_turn():
    cache = make_cache()
    first = chat_request("a", [1, 2, 3])
    compute(cache, first)
    first.output_token_ids += [4, 5, 6, 7, 8, 9]
    cache.allocate_slots(first, 5)
    first.num_computed_tokens = 8
    cache.commit(first, first.num_computed_tokens)
    cache.free(first)
    assert cache.get_computed_blocks(chat_request("b", [1, 2, 3, 4, 5, 6, 7, 8, 100]))[1] == 8


def test_salts_do_not_share():
    cache = make_cache(20)
    compute(cache, chat_request("a", range(9), cache_salt="甲"))
    for salt, expected in [(None, 0), ("乙", 0), ("", 0), ("甲", 8)]:
        assert cache.get_computed_blocks(chat_request(f"b{salt}", range(9), cache_salt=salt))[1] == expected


def test_a_different_beginning_shares_nothing_that_follows():
    cache = make_cache()
    compute(cache, chat_request("a", [1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert cache.get_computed_blocks(chat_request("b", [0, 2, 3, 4, 5, 6, 7, 8, 9])) == ([], 0)


def test_caching_off_finds_nothing():
    cache = make_cache(enable_caching=False)
    compute(cache, chat_request("a", range(9)))
    assert cache.get_computed_blocks(chat_request("b", range(9))) == ([], 0)


def test_freed_in_reverse_so_that_tails_are_evicted_first():
    cache = make_cache(5)
    request = chat_request("a", range(14))
    assert compute(cache, request) == [0, 1, 2, 3]
    cache.free(request)
    assert free_ids(cache) == [3, 4, 2, 1, 0]  # 3 is a part of a block: nothing is lost with it
    assert compute(cache, chat_request("b", range(100, 112))) == [3, 4, 2]
    assert cache.get_computed_blocks(chat_request("c", range(14)))[1] == 8


def test_no_room_is_none_and_changes_nothing():
    cache = make_cache(3)
    first = chat_request("a", range(8))
    compute(cache, first)
    before = free_ids(cache)
    second = chat_request("b", range(4, 14))
    assert cache.allocate_slots(second, 10) is None
    assert cache.allocate_slots(first, 9) is None
    assert free_ids(cache) == before
    cache.check_integrity()


def test_a_hit_on_free_blocks_counts_against_the_room():
    cache = make_cache(3)
    first = chat_request("a", range(8))
    compute(cache, first)
    cache.free(first)
    second = chat_request("b", range(13))  # 4 blocks; 2 of them are cached, but they are not room beside the 3
    assert compute(cache, second) is None
    cache.check_integrity()
    assert compute(cache, chat_request("c", range(12))) == [0, 1, 2]


def test_headroom_stays_free():
    cache = make_cache(4)
    request = chat_request("a", range(8))
    assert cache.allocate_slots(request, 8, headroom=3) is None
    assert cache.allocate_slots(request, 8, headroom=2) == [0, 1]


def test_reset_forgets_but_takes_nothing_away():
    cache = make_cache()
    first = chat_request("a", range(9))
    compute(cache, first)
    cache.reset()
    assert cache.get_computed_blocks(chat_request("b", range(9))) == ([], 0)
    assert cache.usage == pytest.approx(0.3)
    cache.free(first)
    assert cache.usage == 0
    cache.check_integrity()


def test_freeing_what_holds_nothing_is_fine():
    cache = make_cache()
    request = chat_request("a", range(9))
    cache.get_computed_blocks(request)
    cache.free(request)
    cache.free(request)
    assert cache.num_free_blocks == 10


class AllocatorMachine(RuleBasedStateMachine):
    """Any order of admissions, growth and frees; blocks carry the tokens that were written into them."""

    requests = Bundle("requests")

    def __init__(self):
        super().__init__()
        self.cache = make_cache(8)
        self.content = {}  # (block id, offset) → (salt, all tokens up to there)
        self.held = {}
        self.count = 0

    @rule(target=requests, head=st.integers(0, 2), length=st.integers(1, 20), salt=st.sampled_from([None, "盐"]))
    def make(self, head, length, salt):
        self.count += 1
        return chat_request(f"r{self.count}", [head, *range(length)], cache_salt=salt)

    @rule(request=requests, num_tokens=st.integers(1, 20))
    def compute(self, request, num_tokens):
        """Admit the request, or let it go on by some tokens."""
        if request.request_id in self.held:
            return
        blocks, num_cached = self.cache.get_computed_blocks(request)
        assert num_cached < request.num_tokens
        end = min(request.num_tokens, num_cached + num_tokens)
        free_before = self.cache.num_free_blocks
        block_ids = self.cache.allocate_slots(request, request.num_tokens - num_cached, blocks)
        if block_ids is None:
            assert self.cache.num_free_blocks == free_before
            return
        self.held[request.request_id] = request
        request.num_computed_tokens = num_cached
        self.write(request, block_ids, end)

    @rule(request=requests, token=st.integers(0, 3))
    def grow(self, request, token):
        """One more token, after those that are not computed yet."""
        if request.request_id not in self.held:
            return
        request.output_token_ids.append(token)
        block_ids = self.cache.allocate_slots(request, request.num_tokens - request.num_computed_tokens)
        if block_ids is None:
            request.output_token_ids.pop()
        else:
            self.write(request, block_ids, request.num_tokens)

    @rule(request=consumes(requests))
    def free(self, request):
        self.held.pop(request.request_id, None)
        self.cache.free(request)

    @rule()
    def reset(self):
        self.cache.reset()

    def write(self, request, block_ids, end):
        for position in range(request.num_computed_tokens, end):
            prefix = (request.cache_salt, tuple(request.token_ids(0, position + 1)))
            self.content[block_ids[position // BLOCK_SIZE], position % BLOCK_SIZE] = prefix
        request.num_computed_tokens = end
        self.cache.commit(request, request.num_computed_tokens)

    @invariant()
    def everything_held_holds_what_was_written(self):
        self.cache.check_integrity()
        for request in self.held.values():
            block_ids = self.cache.allocate_slots(request, 0)
            for position in range(request.num_computed_tokens):
                prefix = (request.cache_salt, tuple(request.token_ids(0, position + 1)))
                assert self.content[block_ids[position // BLOCK_SIZE], position % BLOCK_SIZE] == prefix

    def teardown(self):
        for request in self.held.values():
            self.cache.free(request)
        self.cache.check_integrity()
        assert self.cache.num_free_blocks == self.cache.num_blocks


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
