"""How requests end: by a stop, an abort or a fault; and which are refused before they begin."""

import pytest
from carrel.errors import CapacityError, ContextLengthError, InvalidParamsError, ModelError, StepError
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
    engine.work()
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
