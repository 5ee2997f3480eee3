"""The scheduler, step by step: what runs in which step, who gives way, and how requests end."""

import numpy as np
import pytest
from carrel.errors import CapacityError, ContextLengthError, InvalidParamsError, ModelError, StepError
from carrel.kv_cache import KVCacheManager
from carrel.request import RequestStatus
from carrel.scheduler import Scheduler
from carrel.step import RequestResult, TokenLogprobs
from engine_fakes import (
    CheckingExecutor,
    Engine,
    FaultyExecutor,
    chat_request,
    expected_tokens,
    next_token,
    pooling_request,
)


def work(engine):
    """What the last step computed, as {request id: tokens}, in order."""
    step = engine.scheduler.schedule()
    scheduled = {item.request.request_id: item.num_scheduled_tokens for b in step.batches for item in b.requests}
    results = [engine.executor.execute(batch) for batch in step.batches]
    engine.outputs += engine.scheduler.update(step, results)
    engine.kv_cache.check_integrity()
    return scheduled


# Filling a step.


def test_a_prompt_is_computed_in_chunks_of_the_budget():
    engine = Engine(max_num_batched_tokens=8)
    engine.add(chat_request("a", range(20), max_tokens=2))
    assert [work(engine) for _ in range(4)] == [{"a": 8}, {"a": 8}, {"a": 4}, {"a": 1}]
    assert engine.tokens() == {"a": expected_tokens(range(20), 2)}
    assert not engine.scheduler.has_unfinished


def test_decode_comes_first_and_prefill_gets_the_rest():
    engine = Engine(max_num_batched_tokens=8)
    engine.add(chat_request("a", range(4)))
    assert work(engine) == {"a": 4}
    engine.add(chat_request("b", range(50, 62)), chat_request("c", range(80, 83)))
    assert work(engine) == {"a": 1, "b": 7}
    assert work(engine) == {"a": 1, "b": 5, "c": 2}
    assert work(engine) == {"a": 1, "b": 1, "c": 1}


def test_no_more_chats_run_than_max_num_seqs():
    engine = Engine(max_num_seqs=2)
    engine.add(*[chat_request(name, [1, 2], max_tokens=2) for name in "abc"])
    assert [work(engine) for _ in range(3)] == [{"a": 2, "b": 2}, {"a": 1, "b": 1}, {"c": 2}]


def test_more_chats_than_tokens_in_the_budget_never_run():
    engine = Engine(max_num_seqs=100, max_num_batched_tokens=3)
    engine.add(*[chat_request(str(index), [1], max_tokens=5) for index in range(6)])
    work(engine)
    assert engine.scheduler.num_running == 3


def test_priority_then_first_come_first_served():
    engine = Engine(max_num_seqs=1)
    engine.add(
        chat_request("late", [1], max_tokens=1, priority=1),
        chat_request("first", [1], max_tokens=1),
        chat_request("second", [1], max_tokens=1),
        chat_request("urgent", [1], max_tokens=1, priority=-1),
    )
    assert [next(iter(work(engine))) for _ in range(4)] == ["urgent", "first", "second", "late"]


def test_completions_of_one_prompt_compute_it_once():
    engine = Engine(max_num_batched_tokens=100)
    engine.add(*[chat_request(name, range(10), max_tokens=3) for name in "abc"], chat_request("other", [5] * 3))
    assert [work(engine) for _ in range(2)] == [{"a": 10}, {"a": 1, "b": 2, "c": 2, "other": 3}]
    assert engine.run()["c"] == expected_tokens(range(10), 3)


def test_a_short_common_beginning_is_not_worth_waiting_for():
    engine = Engine(max_num_batched_tokens=100)
    engine.add(chat_request("a", range(10)), chat_request("b", [*range(7), *[9] * 8]))
    assert work(engine) == {"a": 10, "b": 15}


def test_who_waits_for_a_prompt_of_another_goes_on_when_that_is_aborted_or_fails():
    for end in ("abort", "fail"):
        engine = Engine(max_num_batched_tokens=6)
        engine.add(chat_request("a", range(20), max_tokens=1), chat_request("b", range(20), max_tokens=1))
        assert [work(engine) for _ in range(2)] == [{"a": 6}, {"a": 6}]
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
    assert [work(engine) for _ in range(4)] == [{"a": 7}, {"a": 1}, {"a": 1}, {"b": 5}]


def test_preempted_requests_lose_their_blocks_and_come_back_first():
    engine = Engine(num_blocks=5, enable_caching=False, max_num_seqs=3)
    a, b = chat_request("a", range(4), max_tokens=14), chat_request("b", range(10, 14), max_tokens=14)
    engine.add(a, b)
    while not b.num_preemptions:
        work(engine)
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
    assert [work(engine), work(engine)] == [{"a": 4, "b": 6}, {"c": 7, "d": 3}]
    assert [output.pooled for output in engine.outputs] == [np.array([n]) for n in (4.0, 6.0, 7.0, 3.0)]


def test_an_input_longer_than_the_budget_gets_a_step_of_its_own():
    engine = Engine(max_num_batched_tokens=10)
    engine.add(*[pooling_request(name, length) for name, length in [("a", 4), ("long", 25), ("b", 2)]])
    assert [work(engine) for _ in range(3)] == [{"a": 4}, {"long": 25}, {"b": 2}]


def test_beside_decoding_chats_pooling_keeps_to_its_share():
    engine = Engine(max_num_batched_tokens=40, max_pooling_tokens_while_decoding=6)
    engine.add(chat_request("chat", [1, 2], max_tokens=50))
    work(engine)
    engine.add(*[pooling_request(f"p{index}", 3) for index in range(8)])
    assert [work(engine) for _ in range(2)] == [{"chat": 1, "p0": 3, "p1": 3}, {"chat": 1, "p2": 3, "p3": 3}]


def test_a_longer_input_waits_until_its_share_has_grown_then_runs():
    engine = Engine(max_num_batched_tokens=40, max_pooling_tokens_while_decoding=6)
    engine.add(chat_request("chat", [1, 2], max_tokens=50))
    work(engine)
    engine.add(pooling_request("long", 17), pooling_request("longer", 23), pooling_request("short", 2))
    pooled = [{name: tokens for name, tokens in work(engine).items() if name != "chat"} for _ in range(8)]
    assert pooled == [{}, {}, {"long": 17}, {}, {}, {}, {"longer": 23}, {"short": 2}]


def test_an_over_long_input_joins_the_decodes_alone():
    engine = Engine(max_num_batched_tokens=10, max_pooling_tokens_while_decoding=30)
    engine.add(chat_request("chat", [1, 2], max_tokens=50))
    work(engine)
    engine.add(pooling_request("long", 25), pooling_request("short", 2), chat_request("waits", [1, 2]))
    assert work(engine) == {"chat": 1, "long": 25}
    assert work(engine) == {"chat": 1, "waits": 2}  # prefill gave way once, now it is its turn
    assert work(engine) == {"chat": 1, "waits": 1, "short": 2}


def test_a_flood_of_inputs_takes_at_most_every_second_step_from_a_prefill():
    engine = Engine(max_num_batched_tokens=8, max_pooling_tokens_while_decoding=8)
    engine.add(*[pooling_request(f"p{index}", 8) for index in range(50)])
    engine.add(chat_request("chat", range(40), max_tokens=1))
    steps = [work(engine) for _ in range(10)]
    assert sum("chat" in step for step in steps) == 5
    assert sum(len(step) for step in steps) == 10


def test_what_prefill_leaves_goes_to_pooling_if_no_chat_decodes():
    engine = Engine(max_num_batched_tokens=20, max_pooling_tokens_while_decoding=2)
    engine.add(chat_request("chat", range(10)), *[pooling_request(f"p{index}", 5) for index in range(3)])
    assert work(engine) == {"chat": 10, "p0": 5, "p1": 5}


# How requests end.


def test_end_of_sequence_ends_with_no_stop_reason():
    eos = next_token([1, 2])
    engine = Engine()
    engine.run(chat_request("a", [1, 2], max_tokens=9, eos=frozenset({eos})))
    end = engine.last("a")
    assert (end.new_token_ids, end.finish_reason, end.stop_reason) == ([eos], "stop", None)


def test_a_stop_token_is_the_stop_reason():
    tokens = expected_tokens([1, 2], 3)
    engine = Engine()
    engine.run(chat_request("a", [1, 2], max_tokens=9, stop_token_ids=[tokens[2]]))
    end = engine.last("a")
    assert engine.tokens()["a"] == tokens
    assert (end.finish_reason, end.stop_reason) == ("stop", tokens[2])


def test_ignore_eos_goes_on_to_max_tokens():
    engine = Engine()
    eos = frozenset({next_token([1, 2])})
    tokens = engine.run(chat_request("a", [1, 2], max_tokens=5, eos=eos, ignore_eos=True))
    assert tokens == {"a": expected_tokens([1, 2], 5)}
    assert engine.last("a").finish_reason == "length"


def test_nothing_stops_before_min_tokens():
    tokens = expected_tokens([1, 2], 5)
    engine = Engine()
    engine.run(chat_request("a", [1, 2], max_tokens=9, eos=frozenset(tokens), min_tokens=3))
    assert engine.tokens()["a"] == tokens[:3]
    assert engine.last("a").finish_reason == "stop"


def test_several_tokens_in_one_result_are_cut_where_the_request_ends():
    tokens = expected_tokens([1, 2], 4)

    def four_at_once(batch):
        logprobs = [TokenLogprobs([token], [0.0], [1]) for token in tokens]
        return [RequestResult(list(tokens), logprobs=logprobs) for _ in batch.requests]

    engine = Engine(executor=FaultyExecutor(4, four_at_once))
    engine.run(chat_request("a", [1, 2], max_tokens=9, eos=frozenset({tokens[1]})))
    assert engine.last("a").new_token_ids == tokens[:2]
    assert [entry.token_ids for entry in engine.last("a").logprobs] == [[token] for token in tokens[:2]]


def test_a_request_that_got_several_tokens_goes_on_correctly():
    extra = []

    def twice(batch):
        (item,) = batch.requests
        results = CheckingExecutor.execute(engine.executor, batch)
        if item.samples and len(extra) < 3:
            tokens = item.request.token_ids(0, item.request.num_tokens) + results[0].token_ids
            extra.append(next_token(tokens))
            return [RequestResult([*results[0].token_ids, extra[-1]])]
        return results

    engine = Engine(executor=FaultyExecutor(4, twice), num_blocks=4)
    assert engine.run(chat_request("a", [1, 2, 3], max_tokens=12)) == {"a": expected_tokens([1, 2, 3], 12)}
    assert len(extra) == 3


def test_abort_frees_at_once_wherever_the_request_is():
    engine = Engine(max_num_seqs=1)
    engine.add(chat_request("runs", range(9)), chat_request("waits", range(9)), pooling_request("pools", 3))
    work(engine)
    ends = engine.scheduler.abort(["runs", "waits", "pools", "runs", "unknown"])
    assert [(end.request_id, end.finish_reason) for end in ends] == [("runs", "abort"), ("waits", "abort")]
    engine.scheduler.check_idle()


def test_an_abort_while_the_device_works_wins():
    engine = Engine()
    engine.add(chat_request("a", [1, 2]), chat_request("b", [3, 4]), pooling_request("p", 3))
    step = engine.scheduler.schedule()
    results = [engine.executor.execute(batch) for batch in step.batches]
    engine.scheduler.abort(["a", "p"])
    assert [output.request_id for output in engine.scheduler.update(step, results)] == ["b"]
    engine.scheduler.abort(["b"])
    engine.scheduler.check_idle()


def test_metrics_stand_on_the_last_output():
    engine = Engine()
    engine.run(chat_request("a", [1, 2], max_tokens=3))
    *others, last = engine.outputs
    assert all(output.metrics is None for output in others)
    m = last.metrics
    assert m.arrival_time <= m.first_scheduled_time <= m.first_token_time <= m.finished_time


def test_cached_prompt_tokens_are_reported():
    engine = Engine()
    engine.run(chat_request("a", range(10)))
    engine.run(chat_request("b", range(10)))
    assert engine.last("b").num_cached_tokens == 8
    assert engine.executor.num_computed == {"a": 13, "b": 5}


# Faults.


def test_a_batch_that_raises_fails_alone_and_leaves_nothing_cached():
    failures = [RuntimeError("CUDA error: 设备出错")]

    def fault(batch):
        if batch.model == "chat" and failures:
            raise failures.pop()

    engine = Engine(executor=FaultyExecutor(4, fault))
    engine.run(chat_request("a", range(9)), chat_request("b", range(20, 29)), pooling_request("p", 3))
    for name in "ab":
        end = engine.last(name)
        assert end.finish_reason == "error"
        assert isinstance(end.error, StepError)
        assert isinstance(end.error.__cause__, RuntimeError)
        assert "设备出错" in str(end.error)
    assert engine.last("a").error is not engine.last("b").error
    assert engine.last("p").finish_reason == "stop"
    assert engine.kv_cache.get_computed_blocks(chat_request("c", range(9))) == ([], 0)
    assert engine.run(chat_request("c", range(9)))["c"] == expected_tokens(range(9), 4)


@pytest.mark.parametrize("results", [[], [RequestResult([1])] * 3])
def test_results_of_the_wrong_length_fail_the_batch(results):
    engine = Engine(executor=FaultyExecutor(4, lambda batch: results))
    engine.run(chat_request("a", [1]), chat_request("b", [2]))
    assert {type(output.error) for output in engine.outputs} == {StepError}
    assert f"{len(results)} results for 2 requests" in str(engine.outputs[0].error)


@pytest.mark.parametrize("request_", [chat_request("a", [1]), pooling_request("a", 2)])
def test_an_empty_result_fails_its_request(request_):
    engine = Engine(executor=FaultyExecutor(4, lambda batch: [RequestResult() for _ in batch.requests]))
    engine.run(request_)
    assert "0 tokens and no vector" in str(engine.last("a").error)


def test_tokens_before_the_end_of_the_prompt_fail_their_request():
    engine = Engine(
        executor=FaultyExecutor(4, lambda batch: [RequestResult([1]) for _ in batch.requests]), max_num_batched_tokens=2
    )
    engine.run(chat_request("a", [1, 2, 3]))
    assert isinstance(engine.last("a").error, StepError)


def test_the_error_of_one_request_is_its_own():
    error = ModelError("a vector is not finite")

    def fault(batch):
        results = CheckingExecutor.execute(engine.executor, batch)
        names = [item.request.request_id for item in batch.requests]
        return [RequestResult(error=error) if name == "b" else results[index] for index, name in enumerate(names)]

    engine = Engine(executor=FaultyExecutor(4, fault))
    engine.run(*[chat_request(name, [ord(name)]) for name in "abc"])
    assert engine.last("b").error is error
    assert [engine.last(name).finish_reason for name in "abc"] == ["length", "error", "length"]


def test_fail_all_ends_everything_with_the_error():
    engine = Engine(max_num_seqs=1)
    engine.add(chat_request("a", range(9)), chat_request("b", range(9)), pooling_request("p", 3))
    engine.scheduler.schedule()
    error = StepError("gone")
    ends = engine.scheduler.fail_all(error)
    assert {(end.request_id, end.error) for end in ends} == {("a", error), ("b", error), ("p", error)}
    engine.scheduler.check_idle()


# What is refused.


def test_more_than_the_context_is_refused_with_both_numbers():
    engine = Engine(max_model_len=20)
    with pytest.raises(ContextLengthError, match=r"maximum context length is 20 tokens.*21 tokens") as caught:
        engine.scheduler.check_fits(chat_request("a", range(11), max_tokens=10))
    assert (caught.value.num_tokens, caught.value.max_model_len) == (21, 20)
    engine.scheduler.check_fits(chat_request("a", range(10), max_tokens=10))


def test_more_than_the_cache_is_refused_and_what_just_fits_runs():
    engine = Engine(num_blocks=3, block_size=4)
    with pytest.raises(CapacityError, match="the KV cache holds 12"):
        engine.scheduler.check_fits(chat_request("a", range(8), max_tokens=6))
    assert engine.run(chat_request("a", range(8), max_tokens=5)) == {"a": expected_tokens(range(8), 5)}


def test_an_input_longer_than_its_model_is_refused():
    with pytest.raises(ContextLengthError, match="truncate_prompt_tokens"):
        Engine().scheduler.check_fits(pooling_request("p", 501))


@pytest.mark.parametrize("prompt", [[1, -1], [1, 2**40], [1, "二"], [1.5]])
def test_a_prompt_of_something_else_is_refused(prompt):
    with pytest.raises(InvalidParamsError, match="token ids"):
        Engine().scheduler.check_fits(chat_request("a", prompt))


def test_stats_count():
    engine = Engine(max_num_seqs=1)
    engine.add(chat_request("a", range(9)), chat_request("b", range(9)))
    engine.step()
    stats = engine.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_prompt_tokens, stats.num_generated_tokens) == (1, 1, 9, 1)
    assert stats.kv_caches["chat"].usage == pytest.approx(3 / 64)
    engine.run(pooling_request("p", 5))
    stats = engine.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_pooled_tokens) == (0, 0, 5)
    assert stats.kv_caches["chat"].num_hit_tokens == 8
