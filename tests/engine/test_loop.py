"""The engine's thread: requests in, outputs out, errors to whom they belong, and an end that leaves nobody waiting."""

import threading
import time

import pytest
from carrel.errors import (
    CapacityError,
    ContextLengthError,
    EngineClosedError,
    EngineDeadError,
    InvalidParamsError,
    QueueFullError,
    StepError,
)
from carrel.loop import EngineLoop
from engine_fakes import CheckingExecutor, Engine, FaultyExecutor, ListMailbox, chat_request, expected_tokens
from engine_fakes import pooling_request as pool


@pytest.fixture
def make_loop():
    loops = []

    def make(engine=None, **options):
        loops.append(EngineLoop((engine or Engine()).core, **options))
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()
        loop._thread.join(5)
        assert not loop._thread.is_alive()


class Gate:
    """A fault that stops the device until it is opened."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, batch):
        self.entered.set()
        assert self.opened.wait(20)


class BrokenMailbox(ListMailbox):
    def deliver(self, outputs):
        super().deliver(outputs)
        raise RuntimeError("Event loop is closed")


def test_requests_of_all_kinds_are_answered(make_loop):
    loop, mailbox = make_loop(), ListMailbox()
    loop.submit([chat_request("a", [1, 2]), pool("p", 3)], mailbox)
    loop.submit([chat_request("b", range(30), max_tokens=9)], mailbox)
    assert [end.finish_reason for end in mailbox.wait("a", "b", "p")] == ["length", "length", "stop"]
    tokens = [token for output in mailbox.outputs() if output.request_id == "b" for token in output.new_token_ids]
    assert tokens == expected_tokens(range(30), 9)


def test_each_mailbox_gets_one_delivery_in_a_step(make_loop):
    gate = Gate()
    loop = make_loop(Engine(executor=FaultyExecutor(4, gate)))
    mailboxes = [ListMailbox(), ListMailbox()]
    loop.submit([chat_request("first", [1], max_tokens=1)], ListMailbox())
    assert gate.entered.wait(5)
    for number, mailbox in enumerate(mailboxes):
        loop.submit([chat_request(f"{number}{name}", [1, 2], max_tokens=3) for name in "abc"], mailbox)
    gate.opened.set()
    for number, mailbox in enumerate(mailboxes):
        mailbox.wait(f"{number}a", f"{number}b", f"{number}c")
        assert [len(delivery) for delivery in mailbox.deliveries] == [3, 3, 3]


def test_an_idle_loop_sleeps(make_loop):
    loop, mailbox = make_loop(), ListMailbox()
    loop.submit([chat_request("a", [1])], mailbox)
    mailbox.wait("a")
    steps, cpu = loop.stats().scheduler.num_steps, time.process_time()
    time.sleep(0.2)
    assert loop.stats().scheduler.num_steps == steps
    assert time.process_time() - cpu < 0.1


def test_an_abort_ends_a_request_and_frees_its_blocks(make_loop):
    engine = Engine(max_model_len=100_000, num_blocks=20_000)
    loop, mailbox = make_loop(engine), ListMailbox()
    loop.submit([chat_request("a", [1], max_tokens=50_000)], mailbox)
    while not mailbox.deliveries:
        time.sleep(0.001)
    loop.abort(["a", "unknown"])
    (end,) = mailbox.wait("a")
    assert end.finish_reason == "abort"
    engine.scheduler.check_idle()
    loop.abort(["a"])
    assert engine.executor.released == ["a"]


def test_bad_requests_are_refused_all_or_none(make_loop):
    loop, mailbox = make_loop(), ListMailbox()
    with pytest.raises(ContextLengthError):
        loop.submit([chat_request("a", [1]), chat_request("b", range(300))], mailbox)
    with pytest.raises(InvalidParamsError, match="'a' is in use"):
        loop.submit([chat_request("a", [1]), chat_request("a", [2])], mailbox)
    assert loop.stats().num_open == 0
    assert mailbox.deliveries == []


def test_an_id_is_free_again_after_its_end(make_loop):
    gate = Gate()
    loop, mailbox = make_loop(Engine(executor=FaultyExecutor(4, gate))), ListMailbox()
    loop.submit([chat_request("a", [1])], mailbox)
    with pytest.raises(InvalidParamsError, match="in use"):
        loop.submit([chat_request("a", [1])], mailbox)
    gate.opened.set()
    mailbox.wait("a")
    loop.submit([chat_request("a", [1])], ListMailbox())


def test_a_full_queue_refuses_and_says_so(make_loop):
    gate = Gate()
    loop, mailbox = make_loop(Engine(executor=FaultyExecutor(4, gate)), max_queued_requests=3), ListMailbox()
    loop.submit([chat_request("runs", [1])], mailbox)
    assert gate.entered.wait(5)
    loop.submit([chat_request(name, [1]) for name in "abc"], mailbox)
    with pytest.raises(QueueFullError, match="max_queued_requests is 3"):
        loop.submit([chat_request("d", [1])], mailbox)
    with pytest.raises(CapacityError, match="4 requests at once") as error:
        loop.submit([chat_request(name, [1]) for name in "defg"], mailbox)
    assert not isinstance(error.value, QueueFullError), "to try again would change nothing"
    gate.opened.set()
    mailbox.wait("runs", *"abc")
    loop.submit([chat_request("d", [1])], mailbox)
    mailbox.wait("d")


def test_a_batch_that_raises_fails_and_the_loop_goes_on(make_loop):
    failures = [RuntimeError("out of memory")]

    def fault(batch):
        if failures:
            raise failures.pop()

    loop, mailbox = make_loop(Engine(executor=FaultyExecutor(4, fault))), ListMailbox()
    loop.submit([chat_request("a", [1])], mailbox)
    assert isinstance(mailbox.wait("a")[0].error, StepError)
    loop.submit([chat_request("b", [1])], mailbox)
    assert mailbox.wait("b")[0].finish_reason == "length"
    assert loop.is_alive


def test_when_the_scheduler_raises_everybody_is_told_and_later_ones_too(make_loop, monkeypatch):
    engine = Engine()
    bug = ValueError("a bug in the scheduler")

    def schedule():
        raise bug

    monkeypatch.setattr(engine.scheduler, "schedule", schedule)
    loop, mailbox = make_loop(engine), ListMailbox()
    loop.submit([chat_request("a", [1]), pool("p", 3)], mailbox)
    ends = mailbox.wait("a", "p")
    assert [(end.finish_reason, type(end.error), end.error.__cause__) for end in ends] == [
        ("error", EngineDeadError, bug)
    ] * 2
    assert not loop.is_alive
    with pytest.raises(EngineDeadError, match="a bug in the scheduler") as caught:
        loop.submit([chat_request("b", [1])], mailbox)
    assert caught.value.__cause__ is bug


def test_a_scheduler_without_progress_is_an_error_not_a_hang(make_loop, monkeypatch):
    engine = Engine()
    monkeypatch.setattr(engine.scheduler._planner, "_admit", lambda chats, budget, closed: budget)
    loop, mailbox = make_loop(engine), ListMailbox()
    loop.submit([chat_request("a", [1])], mailbox)
    (end,) = mailbox.wait("a")
    assert isinstance(end.error, EngineDeadError)
    assert "no progress" in str(end.error)


def test_an_output_lost_by_a_failing_release_still_ends_its_request(make_loop):
    class Executor(CheckingExecutor):
        def release(self, request_ids):
            raise OSError("release failed")

    loop, mailbox = make_loop(Engine(executor=Executor(4))), ListMailbox()
    loop.submit([chat_request("a", [1], max_tokens=1)], mailbox)
    assert isinstance(mailbox.wait("a")[0].error, EngineDeadError)
    assert len(mailbox.ends()["a"]) == 1


def test_a_mailbox_that_raises_loses_its_requests_and_no_others(make_loop):
    engine = Engine()
    loop, broken, mailbox = make_loop(engine), BrokenMailbox(), ListMailbox()
    loop.submit([chat_request("a", [1], max_tokens=50), chat_request("b", [2], max_tokens=50)], broken)
    loop.submit([chat_request("c", [3], max_tokens=50)], mailbox)
    assert mailbox.wait("c")[0].finish_reason == "length"
    assert [end.finish_reason for end in broken.wait("a", "b")] == ["abort", "abort"]
    assert len(broken.deliveries) == 2  # the one that raised, and the last word
    while loop.stats().scheduler.num_running:
        time.sleep(0.001)
    engine.scheduler.check_idle()


def test_close_aborts_what_is_open_and_refuses_what_comes(make_loop):
    engine = Engine(max_num_seqs=1, max_model_len=100_000, num_blocks=20_000)
    loop, mailbox = make_loop(engine), ListMailbox()
    loop.submit([chat_request(name, [1], max_tokens=50_000) for name in "abc"], mailbox)
    while not mailbox.deliveries:
        time.sleep(0.001)
    loop.close()
    loop.close()
    assert [end.finish_reason for end in mailbox.wait(*"abc")] == ["abort"] * 3
    engine.scheduler.check_idle()
    assert not loop.is_alive
    assert not loop._thread.is_alive()
    with pytest.raises(EngineClosedError):
        loop.submit([chat_request("d", [1])], mailbox)
    loop.abort(["a"])


def test_what_was_submitted_just_before_close_is_answered(make_loop):
    gate = Gate()
    loop, mailbox = make_loop(Engine(executor=FaultyExecutor(4, gate))), ListMailbox()
    loop.submit([chat_request("a", [1])], mailbox)
    assert gate.entered.wait(5)
    loop.submit([chat_request("b", [1])], mailbox)
    closer = threading.Thread(target=loop.close)
    closer.start()
    gate.opened.set()
    closer.join()
    assert [end.metrics is not None for end in mailbox.wait("a", "b")] == [True, True]


def test_close_answers_even_a_request_that_the_core_forgot(make_loop, monkeypatch):
    engine = Engine(max_model_len=100_000, num_blocks=20_000)
    monkeypatch.setattr(engine.scheduler, "abort", lambda request_ids: [])
    loop, mailbox = make_loop(engine), ListMailbox()
    loop.submit([chat_request("a", [1], max_tokens=50_000)], mailbox)
    loop.close()
    assert mailbox.wait("a")[0].finish_reason == "abort"


def test_close_does_not_wait_for_ever_for_the_device(make_loop):
    gate = Gate()
    loop, mailbox = make_loop(Engine(executor=FaultyExecutor(4, gate))), ListMailbox()
    loop.submit([chat_request("a", [1]), chat_request("b", [1])], mailbox)
    assert gate.entered.wait(5)
    loop.close(timeout=0.05)
    assert [end.finish_reason for end in mailbox.wait("a", "b")] == ["abort"] * 2
    gate.opened.set()
    loop.close()
    assert {name: len(ends) for name, ends in mailbox.ends().items()} == {"a": 1, "b": 1}
    assert len(mailbox.deliveries) == 1  # what the device gave afterwards is for nobody


def test_a_mailbox_may_close_and_submit(make_loop):
    class Busy(ListMailbox):
        def deliver(self, outputs):
            super().deliver(outputs)
            if len(self.deliveries) == 1:
                loop.submit([chat_request("b", [1])], self)
            else:
                loop.close()

    loop, mailbox = make_loop(), Busy()
    loop.submit([chat_request("a", [1], max_tokens=50)], mailbox)
    assert {end.finish_reason for end in mailbox.wait("a", "b")} == {"abort"}


def test_the_thread_has_a_name_and_dies_with_the_process(make_loop):
    loop = make_loop(name="carrel-test")
    assert (loop._thread.name, loop._thread.daemon) == ("carrel-test", True)
