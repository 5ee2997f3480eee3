"""The scheduler, step by step: what runs in which step, and who gives way."""

import numpy as np
from carrel.kv_cache import KVCacheManager
from carrel.request import RequestStatus
from carrel.scheduler import Scheduler
from carrel.step import RequestResult
from engine_fakes import (
    CheckingExecutor,
    Engine,
    FaultyExecutor,
    chat_request,
    expected_tokens,
    pooling_request,
)

# Filling a step.


def test_a_prompt_is_computed_in_chunks_of_the_budget():
    engine = Engine(max_num_batched_tokens=8)
    engine.add(chat_request("a", range(20), max_tokens=2))
    assert [engine.work() for _ in range(4)] == [{"a": 8}, {"a": 8}, {"a": 4}, {"a": 1}]
    assert engine.tokens() == {"a": expected_tokens(range(20), 2)}
    assert not engine.scheduler.has_unfinished


def test_decode_comes_first_and_prefill_gets_the_rest():
    engine = Engine(max_num_batched_tokens=8)
    engine.add(chat_request("a", range(4)))
    assert engine.work() == {"a": 4}
    engine.add(chat_request("b", range(50, 62)), chat_request("c", range(80, 83)))
    assert engine.work() == {"a": 1, "b": 7}
    assert engine.work() == {"a": 1, "b": 5, "c": 2}
    assert engine.work() == {"a": 1, "b": 1, "c": 1}


def test_no_more_chats_run_than_max_num_seqs():
    engine = Engine(max_num_seqs=2)
    engine.add(*[chat_request(name, [1, 2], max_tokens=2) for name in "abc"])
    assert [engine.work() for _ in range(3)] == [{"a": 2, "b": 2}, {"a": 1, "b": 1}, {"c": 2}]


def test_more_chats_than_tokens_in_the_budget_never_run():
    engine = Engine(max_num_seqs=100, max_num_batched_tokens=3)
    engine.add(*[chat_request(str(index), [1], max_tokens=5) for index in range(6)])
    engine.work()
    assert engine.scheduler.num_running == 3


def test_priority_then_first_come_first_served():
    engine = Engine(max_num_seqs=1)
    engine.add(
        chat_request("late", [1], max_tokens=1, priority=1),
        chat_request("first", [1], max_tokens=1),
        chat_request("second", [1], max_tokens=1),
        chat_request("urgent", [1], max_tokens=1, priority=-1),
    )
    assert [next(iter(engine.work())) for _ in range(4)] == ["urgent", "first", "second", "late"]


def test_completions_of_one_prompt_compute_it_once():
    engine = Engine(max_num_batched_tokens=100)
    engine.add(*[chat_request(name, range(10), max_tokens=3) for name in "abc"], chat_request("other", [5] * 3))
    assert [engine.work() for _ in range(2)] == [{"a": 10}, {"a": 1, "b": 2, "c": 2, "other": 3}]
    assert engine.run()["c"] == expected_tokens(range(10), 3)


def test_a_short_common_beginning_is_not_worth_waiting_for():
    engine = Engine(max_num_batched_tokens=100)
    engine.add(chat_request("a", range(10)), chat_request("b", [*range(7), *[9] * 8]))
    assert engine.work() == {"a": 10, "b": 15}


def test_who_waits_for_a_prompt_of_another_goes_on_when_that_is_aborted_or_fails():
    for end in ("abort", "fail"):
        engine = Engine(max_num_batched_tokens=6)
        engine.add(chat_request("a", range(20), max_tokens=1), chat_request("b", range(20), max_tokens=1))
        assert [engine.work() for _ in range(2)] == [{"a": 6}, {"a": 6}]
        if end == "abort":
            engine.scheduler.abort(["a"])
        else:
            step = engine.scheduler.schedule()
            engine.scheduler.update(step, [RuntimeError("lost")])
        assert engine.run()["b"] == expected_tokens(range(20), 1)
        assert engine.last("b").num_cached_tokens == 12


def test_two_chat_models_share_the_budget_but_not_the_cache():
    caches = {name: KVCacheManager(4, 4, enable_caching=True, max_model_len=16) for name in ("甲", "乙")}
    scheduler, executor = Scheduler(caches, max_num_batched_tokens=10), CheckingExecutor(4)
    scheduler.add_request(chat_request("a", range(8), model="甲", max_tokens=2))
    scheduler.add_request(chat_request("blocked", range(20, 32), model="甲", max_tokens=2))
    scheduler.add_request(chat_request("b", range(8), model="乙", max_tokens=2))
    step = scheduler.schedule()
    assert [(batch.model, [i.num_scheduled_tokens for i in batch.requests]) for batch in step.batches] == [
        ("甲", [8]),
        ("乙", [2]),
    ]
    scheduler.update(step, [executor.execute(batch) for batch in step.batches])
    while scheduler.has_unfinished:
        step = scheduler.schedule()
        assert step.num_scheduled_tokens > 0
        scheduler.update(step, [executor.execute(batch) for batch in step.batches])
    scheduler.check_idle()


# Preemption.


def test_a_new_request_leaves_one_block_to_each_running_one():
    engine = Engine(num_blocks=4, max_num_seqs=2)
    engine.add(chat_request("a", range(7), max_tokens=3), chat_request("b", range(50, 55), max_tokens=8))
    assert [engine.work() for _ in range(4)] == [{"a": 7}, {"a": 1}, {"a": 1}, {"b": 5}]


def test_preempted_requests_lose_their_blocks_and_come_back_first():
    engine = Engine(num_blocks=5, enable_caching=False, max_num_seqs=3)
    a, b = chat_request("a", range(4), max_tokens=14), chat_request("b", range(10, 14), max_tokens=14)
    engine.add(a, b)
    while not b.num_preemptions:
        engine.work()
    engine.add(chat_request("c", [5], max_tokens=1))
    assert (b.status, b.num_computed_tokens) == (RequestStatus.PREEMPTED, 0)
    assert a.num_preemptions == 0
    assert engine.run()["b"] == expected_tokens(range(10, 14), 14)
    ends = [output.request_id for output in engine.outputs if output.finished]
    assert ends == ["a", "c", "b"]  # c started behind b, and had less to do
    assert engine.scheduler.stats().num_preemptions == b.num_preemptions


def test_the_least_urgent_gives_way_even_if_it_came_first():
    engine = Engine(num_blocks=5, max_num_seqs=3)
    low, high = chat_request("low", range(4), max_tokens=14, priority=5), chat_request("high", [9] * 4, max_tokens=14)
    engine.run(low, high)
    assert low.num_preemptions >= 1
    assert high.num_preemptions == 0
    assert engine.tokens()["low"] == expected_tokens(range(4), 14)


def test_a_preempted_request_reports_the_cache_hits_of_its_first_start():
    engine = Engine(num_blocks=5, max_num_seqs=3)
    b = chat_request("b", range(10, 14), max_tokens=14)
    engine.run(chat_request("a", range(4), max_tokens=14), b)
    assert b.num_preemptions >= 1
    assert engine.last("b").num_cached_tokens == 0


# Pooling.


def test_pooling_alone_fills_the_budget_in_order():
    engine = Engine(max_num_batched_tokens=10)
    engine.add(*[pooling_request(name, length) for name, length in [("a", 4), ("b", 6), ("c", 7), ("d", 3)]])
    assert [engine.work(), engine.work()] == [{"a": 4, "b": 6}, {"c": 7, "d": 3}]
    assert [output.pooled for output in engine.outputs] == [np.array([n]) for n in (4.0, 6.0, 7.0, 3.0)]


def test_an_input_longer_than_the_budget_gets_a_step_of_its_own():
    engine = Engine(max_num_batched_tokens=10)
    engine.add(*[pooling_request(name, length) for name, length in [("a", 4), ("long", 25), ("b", 2)]])
    assert [engine.work() for _ in range(3)] == [{"a": 4}, {"long": 25}, {"b": 2}]


def test_beside_decoding_chats_pooling_keeps_to_its_share():
    engine = Engine(max_num_batched_tokens=40, max_pooling_tokens_while_decoding=6)
    engine.add(chat_request("chat", [1, 2], max_tokens=50))
    engine.work()
    engine.add(*[pooling_request(f"p{index}", 3) for index in range(8)])
    assert [engine.work() for _ in range(2)] == [{"chat": 1, "p0": 3, "p1": 3}, {"chat": 1, "p2": 3, "p3": 3}]


def test_a_longer_input_waits_until_its_share_has_grown_then_runs():
    engine = Engine(max_num_batched_tokens=40, max_pooling_tokens_while_decoding=6)
    engine.add(chat_request("chat", [1, 2], max_tokens=50))
    engine.work()
    engine.add(pooling_request("long", 17), pooling_request("longer", 23), pooling_request("short", 2))
    pooled = [{name: tokens for name, tokens in engine.work().items() if name != "chat"} for _ in range(8)]
    assert pooled == [{}, {}, {"long": 17}, {}, {}, {}, {"longer": 23}, {"short": 2}]


def test_an_over_long_input_joins_the_decodes_alone():
    engine = Engine(max_num_batched_tokens=10, max_pooling_tokens_while_decoding=30)
    engine.add(chat_request("chat", [1, 2], max_tokens=50))
    engine.work()
    engine.add(pooling_request("long", 25), pooling_request("short", 2), chat_request("waits", [1, 2]))
    assert engine.work() == {"chat": 1, "long": 25}
    assert engine.work() == {"chat": 1, "waits": 2}  # prefill gave way once, now it is its turn
    assert engine.work() == {"chat": 1, "waits": 1, "short": 2}


def test_a_flood_of_inputs_takes_at_most_every_second_step_from_a_prefill():
    engine = Engine(max_num_batched_tokens=8, max_pooling_tokens_while_decoding=8)
    engine.add(*[pooling_request(f"p{index}", 8) for index in range(50)])
    engine.add(chat_request("chat", range(40), max_tokens=1))
    steps = [engine.work() for _ in range(10)]
    assert sum("chat" in step for step in steps) == 5
    assert sum(len(step) for step in steps) == 10


def test_what_prefill_leaves_goes_to_pooling_if_no_chat_decodes():
    engine = Engine(max_num_batched_tokens=20, max_pooling_tokens_while_decoding=2)
    engine.add(chat_request("chat", range(10)), *[pooling_request(f"p{index}", 5) for index in range(3)])
    assert engine.work() == {"chat": 10, "p0": 5, "p1": 5}


# Log probabilities of prompts.


def test_a_model_that_says_too_little_of_a_prompt_fails_the_request():
    def forget(batch):
        return [RequestResult([7] if item.samples else []) for item in batch.requests]

    engine = Engine(executor=FaultyExecutor(4, forget))
    engine.add(chat_request("a", range(6), prompt_logprobs=1), chat_request("b", range(6, 9), max_tokens=1))
    engine.step()
    assert engine.last("a").finish_reason == "error"
    assert engine.last("b").new_token_ids == [7]
    engine.scheduler.check_idle()


def test_who_asks_for_its_prompt_does_not_wait_for_others_to_compute_it():
    engine = Engine(max_num_batched_tokens=40)
    engine.add(chat_request("a", range(20)), chat_request("b", range(20), prompt_logprobs=0))
    assert engine.work() == {"a": 20, "b": 20}
    engine.add(chat_request("c", range(20)))
    assert engine.work() == {"a": 1, "b": 1, "c": 4}  # what they computed is there for others
