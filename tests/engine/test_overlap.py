"""Overlap scheduling, step by step: one step in flight behind another, and what ends in the first one."""

import pytest
from async_device import AsyncDevice
from carrel.core import EngineCore
from carrel.errors import InvalidParamsError, ModelError, StepError
from carrel.host import resolve_overlap
from carrel.kv_cache import KVCacheManager
from carrel.loop import EngineLoop
from carrel.request import RequestStatus
from carrel.scheduler import Scheduler
from carrel.step import RequestResult
from engine_fakes import (
    CheckingExecutor,
    Engine,
    FaultyExecutor,
    ListMailbox,
    chat_request,
    expected_tokens,
    next_token,
    pooling_request,
)


def lengths(engine):
    """How many tokens of each request every batch computed."""
    return [
        {item.request.request_id: item.num_scheduled_tokens for item in b.requests} for b in engine.executor.batches
    ]


def overlapped(**options):
    return Engine(overlap=True, **options)


def test_the_second_step_is_submitted_before_the_first_is_known():
    engine = overlapped()
    engine.add(chat_request("a", [1, 2], max_tokens=3))
    assert engine.step() == []
    assert engine.executor.batches == []  # submitted, not yet run
    tokens = expected_tokens([1, 2], 3)
    assert [output.new_token_ids for output in engine.step()] == [tokens[:1]]
    assert lengths(engine) == [{"a": 2}]
    assert [output.new_token_ids for output in engine.step()] == [tokens[1:2]]
    assert [output.new_token_ids for output in engine.step()] == [tokens[2:]]
    assert engine.device.num_ahead == 2  # both decodes had an input that the host did not know
    assert not engine.core.has_work
    engine.scheduler.check_idle()


def test_the_length_is_known_in_advance_so_nothing_is_computed_in_vain():
    engine = overlapped()
    answers = engine.run(*[chat_request(f"r{n}", [n, 1, 2], max_tokens=n) for n in range(1, 6)])
    assert answers == {f"r{n}": expected_tokens([n, 1, 2], n) for n in range(1, 6)}
    assert engine.executor.num_computed == {f"r{n}": 3 + n - 1 for n in range(1, 6)}


def test_what_a_stop_token_ends_is_computed_once_more_and_dropped():
    tokens = expected_tokens([1, 2], 3)
    engine = overlapped()
    engine.run(chat_request("a", [1, 2], max_tokens=9, eos=frozenset({tokens[2]})))
    assert engine.tokens() == {"a": tokens}
    assert engine.last("a").finish_reason == "stop"
    assert lengths(engine) == [{"a": 2}, {"a": 1}, {"a": 1}, {"a": 1}]
    assert not engine.core.has_work  # the extra row was waited for


def test_blocks_of_an_ended_request_go_to_another_while_a_step_still_writes_them():
    """The device runs in order: the new owner writes, in a later step, over whatever came late."""
    eos = expected_tokens([1, 2, 3], 2)[1]
    engine = overlapped(num_blocks=2, block_size=4, enable_caching=False)
    engine.add(chat_request("a", [1, 2, 3], max_tokens=6, eos=frozenset({eos})))
    engine.add(chat_request("b", range(7), max_tokens=2))
    assert engine.run()["b"] == expected_tokens(range(7), 2)


def test_min_tokens_and_logprobs_run_ahead_penalties_do_not():
    tokens = expected_tokens([1, 2], 5)
    for params, runs_ahead in (({"min_tokens": 3}, True), ({"logprobs": 2}, True), ({"presence_penalty": 0.5}, False)):
        engine = overlapped()
        engine.run(chat_request("a", [1, 2], max_tokens=5, **params))
        assert engine.tokens() == {"a": tokens}
        assert (engine.device.num_ahead > 0) == runs_ahead


def test_with_penalties_everybody_waits_for_the_step_and_nobody_misses_one():
    engine = overlapped()
    engine.run(chat_request("a", [1, 2], max_tokens=4, repetition_penalty=1.1), chat_request("b", [3], max_tokens=4))
    assert lengths(engine) == [{"a": 2, "b": 1}, *[{"a": 1, "b": 1}] * 3]
    engine.run(chat_request("c", [4], max_tokens=4))
    assert engine.device.num_ahead == 3


def test_an_abort_frees_at_once_and_the_step_in_flight_changes_nothing():
    engine = overlapped()
    engine.add(chat_request("a", range(9), max_tokens=20), pooling_request("p", 3))
    engine.step()
    engine.step()
    ends = engine.core.abort(["a"])
    assert [(end.request_id, end.finish_reason) for end in ends] == [("a", "abort")]
    engine.scheduler.check_idle()
    assert engine.core.has_work  # one step is still in flight
    engine.add(chat_request("a", range(20, 29), max_tokens=3))  # the id is free again
    engine.outputs.clear()
    assert engine.run() == {"a": expected_tokens(range(20, 29), 3)}


def test_what_gives_way_in_flight_is_computed_again():
    engine = overlapped(num_blocks=5, enable_caching=False, max_num_seqs=3)
    requests = [chat_request(name, [index] * 4, max_tokens=14) for index, name in enumerate("abc")]
    answers = engine.run(*requests)
    assert answers == {name: expected_tokens([index] * 4, 14) for index, name in enumerate("abc")}
    assert engine.scheduler.stats().num_preemptions > 0
    assert engine.device.num_ahead > 14


def test_completions_of_one_prompt_compute_it_once():
    engine = overlapped(max_num_batched_tokens=100)
    answers = engine.run(*[chat_request(name, range(10), max_tokens=3) for name in "abc"])
    assert answers == dict.fromkeys("abc", expected_tokens(range(10), 3))
    assert engine.executor.num_computed == {"a": 12, "b": 4, "c": 4}


def test_a_chunk_follows_a_chunk_in_flight():
    engine = overlapped(max_num_batched_tokens=6)
    engine.add(chat_request("a", range(20), max_tokens=2))
    for _ in range(4):
        assert engine.step() == []
    assert lengths(engine) == [{"a": 6}, {"a": 6}, {"a": 6}]
    assert engine.run() == {"a": expected_tokens(range(20), 2)}


def test_pooling_overlaps_too():
    engine = overlapped(max_num_batched_tokens=8)
    engine.add(*[pooling_request(f"p{n}", 5) for n in range(3)], chat_request("a", [1], max_tokens=4))
    engine.run()
    assert [engine.last(f"p{n}").pooled.tolist() for n in range(3)] == [[5.0]] * 3
    assert engine.tokens()["a"] == expected_tokens([1], 4)


def test_a_device_that_cannot_run_ahead_is_waited_for():
    engine = Engine()
    core = EngineCore(engine.scheduler, engine.executor, overlap=True)
    core.add_request(chat_request("a", [1, 2], max_tokens=2))
    tokens = expected_tokens([1, 2], 2)
    assert [[output.new_token_ids for output in core.step()] for _ in range(2)] == [[tokens[:1]], [tokens[1:]]]


def test_two_chat_models_overlap():
    caches = {name: KVCacheManager(8, 4, enable_caching=True, max_model_len=30) for name in ("甲", "乙")}
    scheduler, device = Scheduler(caches), AsyncDevice(CheckingExecutor(4))
    core = EngineCore(scheduler, device, overlap=True)
    core.add_request(chat_request("a", [1, 2], model="甲", max_tokens=5))
    core.add_request(chat_request("b", [3, 4], model="乙", max_tokens=7))
    tokens = {"a": [], "b": []}
    while core.has_work:
        for output in core.step():
            tokens[output.request_id] += output.new_token_ids
    assert tokens == {"a": expected_tokens([1, 2], 5), "b": expected_tokens([3, 4], 7)}
    assert device.num_ahead == 4 + 6
    scheduler.check_idle()


# Faults.


def test_a_batch_that_fails_on_the_device_ends_its_requests_and_spares_who_came_behind():
    failures = [None, RuntimeError("CUDA error: 设备出错")]

    def fault(batch):
        if failures and (error := failures.pop(0)):
            raise error

    engine = overlapped(executor=FaultyExecutor(4, fault))
    engine.add(chat_request("a", [1, 2], max_tokens=9))
    engine.step()
    engine.step()  # the one that fails is in flight
    engine.run(chat_request("b", [3, 4], max_tokens=3))
    assert isinstance(engine.last("a").error, StepError)
    assert engine.tokens()["b"] == expected_tokens([3, 4], 3)


def test_a_batch_that_cannot_be_submitted_ends_its_requests_and_the_engine_goes_on(monkeypatch):
    engine = overlapped()
    submit, num_calls = engine.device.submit, []

    def faulty(batch):
        num_calls.append(batch)
        if len(num_calls) == 2:
            raise RuntimeError("设备出错")
        return submit(batch)

    monkeypatch.setattr(engine.device, "submit", faulty)
    engine.run(chat_request("a", [1, 2], max_tokens=9))
    assert engine.tokens()["a"] == expected_tokens([1, 2], 1)
    assert isinstance(engine.last("a").error, StepError)
    assert engine.run(chat_request("b", [1, 2], max_tokens=3))["b"] == expected_tokens([1, 2], 3)


def test_the_error_of_one_request_is_its_own():
    error = ModelError("logits are not finite")

    def fault(batch):
        results = CheckingExecutor.execute(engine.executor, batch)
        names = [item.request.request_id for item in batch.requests]
        return [RequestResult(error=error) if name == "b" else results[index] for index, name in enumerate(names)]

    engine = overlapped(executor=FaultyExecutor(4, fault))
    engine.run(*[chat_request(name, [ord(name)]) for name in "abc"])
    assert engine.last("b").error is error
    assert [engine.last(name).finish_reason for name in "abc"] == ["length", "error", "length"]


def test_several_tokens_for_a_request_that_ran_ahead_are_its_error():
    def two(batch):
        CheckingExecutor.execute(engine.executor, batch)
        return [RequestResult([next_token([1, 2]), 5])]

    engine = overlapped(executor=FaultyExecutor(4, two))
    engine.run(chat_request("a", [1, 2], max_tokens=9))
    assert isinstance(engine.last("a").error, StepError)
    assert "2 tokens" in str(engine.last("a").error)


def test_fail_all_with_a_step_in_flight():
    engine = overlapped()
    engine.add(chat_request("a", [1, 2]), pooling_request("p", 3))
    engine.step()
    assert {end.request_id for end in engine.core.fail_all(StepError("gone"))} == {"a", "p"}
    assert engine.core.drain() == []
    assert not engine.core.has_work
    engine.scheduler.check_idle()


def test_a_closed_loop_leaves_nothing_in_flight():
    engine = overlapped(max_model_len=100_000, num_blocks=20_000)
    loop, mailbox = EngineLoop(engine.core), ListMailbox()
    loop.submit([chat_request("a", [1], max_tokens=50_000)], mailbox)
    while not mailbox.deliveries:
        pass
    loop.close()
    assert mailbox.wait("a")[0].finish_reason == "abort"
    assert not engine.core.has_work


def test_request_states_between_steps():
    engine = overlapped()
    request = chat_request("a", [1, 2, 3], max_tokens=5)
    engine.add(request)
    engine.step()
    assert (request.num_tokens, request.num_computed_tokens, request.num_output_placeholders) == (3, 3, 1)
    engine.step()
    assert (request.num_tokens, request.num_computed_tokens, request.num_output_placeholders) == (4, 4, 1)
    assert request.status is RequestStatus.RUNNING


@pytest.mark.parametrize("overlap", [False, True])
def test_steps_without_work_are_not_counted(overlap):
    engine = Engine(overlap=overlap)
    engine.run(chat_request("a", [1], max_tokens=3))
    assert engine.scheduler.stats().num_steps == 3


# Who decides.


@pytest.mark.parametrize(
    ("asked", "asynchronous", "overlaps"), [(None, True, True), (None, False, False), (False, True, False)]
)
def test_overlap_is_on_where_the_device_can(asked, asynchronous, overlaps):
    executor = CheckingExecutor(4)
    assert resolve_overlap(asked, AsyncDevice(executor) if asynchronous else executor) is overlaps


def test_overlap_on_a_device_that_cannot_is_refused():
    with pytest.raises(InvalidParamsError, match="overlap_scheduling=True needs a device") as caught:
        resolve_overlap(True, CheckingExecutor(4))
    assert caught.value.param == "overlap_scheduling"
