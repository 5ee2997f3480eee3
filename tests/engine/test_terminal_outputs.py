"""Every accepted request ends in exactly one terminal output, whatever the model, the batch, the loop or a reader does.

Real threads. Faults come at chosen calls: the model raises, gives results of a wrong length or shape, or an error for
one request; the scheduler or the release raises; a mailbox raises; clients abort and close at any moment.
"""

import threading
import time
from dataclasses import dataclass, field

from carrel.errors import CapacityError, CarrelError, EngineClosedError, EngineDeadError, ModelError, StepError
from carrel.loop import EngineLoop
from carrel.step import RequestResult
from engine_fakes import CheckingExecutor, Engine, ListMailbox, chat_request, expected_tokens, pooling_request
from hypothesis import given, settings
from hypothesis import strategies as st

MODEL_FAULTS = ["raise", "raise_carrel", "too_few", "too_many", "none_at_all", "empty", "one_error", "not_a_list"]
LOOP_FAULTS = ["schedule", "update", "release", "system_exit"]


class FaultInjector(CheckingExecutor):
    """Fails in the given way at the given calls of execute()."""

    def __init__(self, block_size, faults):
        super().__init__(block_size)
        self.faults = faults  # call number → kind
        self.num_calls = 0

    def execute(self, batch):
        self.num_calls += 1
        fault = self.faults.get(self.num_calls)
        if fault == "raise":
            raise RuntimeError("设备出错")
        if fault == "raise_carrel":
            raise ModelError("the model cannot do this")
        results = super().execute(batch)
        return results if fault is None else self.spoil(fault, results)

    def spoil(self, fault, results):
        return {
            "too_few": results[:-1],
            "too_many": [*results, RequestResult([1])],
            "none_at_all": [],
            "empty": [RequestResult() for _ in results],
            "one_error": [RequestResult(error=ModelError("not finite")), *results[1:]],
            "not_a_list": None,
        }[fault]


class FlakyMailbox(ListMailbox):
    """Raises at its n-th delivery, and from then on."""

    def __init__(self, raises_at):
        super().__init__()
        self.raises_at = raises_at

    def deliver(self, outputs):
        super().deliver(outputs)
        if self.raises_at is not None and len(self.deliveries) >= self.raises_at:
            raise RuntimeError("Event loop is closed")


def fail_at(owner, name, number, error):
    """Let the method ``name`` of ``owner`` raise at its n-th call."""
    method, num_calls = getattr(owner, name), [0]

    def wrapped(*args):
        num_calls[0] += 1
        if num_calls[0] == number:
            raise error
        return method(*args)

    setattr(owner, name, wrapped)


@dataclass
class Client:
    """What one thread does: submits, waits a little, aborts some."""

    kinds: list  # of its requests: (pooling, length, max_tokens)
    aborts: set  # indices
    pause: float
    raises_at: int | None
    accepted: dict = field(default_factory=dict)

    def run(self, loop, number):
        self.mailbox = FlakyMailbox(self.raises_at)
        for index, (pooling, length, max_tokens) in enumerate(self.kinds):
            name = f"{number}-{index}"
            request = (
                pooling_request(name, length)
                if pooling
                else chat_request(name, [1, *range(length)], max_tokens=max_tokens)
            )
            try:
                loop.submit([request], self.mailbox)
            except (CapacityError, EngineClosedError, EngineDeadError):
                continue
            self.accepted[name] = request
        time.sleep(self.pause)
        loop.abort([f"{number}-{index}" for index in self.aborts])


CLIENTS = st.lists(
    st.builds(
        Client,
        kinds=st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=5),
        aborts=st.sets(st.integers(0, 4)),
        pause=st.sampled_from([0, 0, 0.001, 0.003]),
        raises_at=st.none() | st.none() | st.integers(1, 3),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(
    clients=CLIENTS,
    model_faults=st.dictionaries(st.integers(1, 12), st.sampled_from(MODEL_FAULTS), max_size=3),
    loop_fault=st.none() | st.none() | st.tuples(st.sampled_from(LOOP_FAULTS), st.integers(1, 8)),
    close_after=st.none() | st.sampled_from([0, 0.001, 0.004]),
    num_blocks=st.integers(3, 20),
    budget=st.integers(1, 30),
    overlap=st.booleans(),
)
def test_every_accepted_request_ends_in_exactly_one_terminal_output(
    clients, model_faults, loop_fault, close_after, num_blocks, budget, overlap
):
    engine = Engine(
        num_blocks=num_blocks,
        max_num_batched_tokens=budget,
        executor=FaultInjector(4, model_faults),
        max_num_seqs=4,
        overlap=overlap,
    )
    if loop_fault is not None:
        inject(engine, *loop_fault)
    loop = EngineLoop(engine.core, max_queued_requests=10)
    threads = [threading.Thread(target=client.run, args=(loop, n)) for n, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    if close_after is not None:
        time.sleep(close_after)
        loop.close()
    for thread in threads:
        thread.join()
    for client in clients:
        client.mailbox.wait(*client.accepted)
    loop.close()
    loop._thread.join(5)
    assert not loop._thread.is_alive()
    for client in clients:
        check(client)
    assert loop.stats().num_open == 0
    if loop_fault is None and "not_a_list" not in model_faults.values():
        engine.scheduler.check_idle()


def inject(engine, fault, number):
    if fault == "schedule":
        fail_at(engine.scheduler, "schedule", number, ValueError("a bug in schedule()"))
    elif fault == "update":
        fail_at(engine.scheduler, "update", number, ValueError("a bug in update()"))
    elif fault == "release":
        fail_at(engine.executor, "release", number, OSError("release failed"))
    else:
        fail_at(engine.executor, "execute", number, SystemExit("an exception of no usual kind"))


def check(client):
    """One end for each accepted request, as its last output, and right answers before it."""
    news = {name: [] for name in client.accepted}
    for output in client.mailbox.outputs():
        news[output.request_id].append(output)
    for name, outputs in news.items():
        request = client.accepted[name]
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        tokens = [token for output in outputs for token in output.new_token_ids]
        end = outputs[-1]
        if not request.is_pooling:
            assert tokens == expected_tokens(request.prompt_token_ids, len(tokens))
        assert (end.finish_reason == "error") == (end.error is not None)
        assert end.error is None or isinstance(end.error, (StepError, EngineDeadError, ModelError))
        assert end.error is None or isinstance(end.error, CarrelError)
        if end.finish_reason == "length":
            assert len(tokens) == request.max_tokens
        if end.finish_reason == "stop":
            assert end.pooled is not None
