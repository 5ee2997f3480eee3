"""Any workload on any small engine: the answers are those of each request alone, and the rules of a step are kept.

The model's token is a function of all tokens before it, read back from the blocks of the KV cache, so one comparison
with ``expected_tokens`` says: cache on = off, chunked = whole, preempted = not, batched = alone, overlap on = off,
aborted neighbours change nothing.
"""

from dataclasses import dataclass

import pytest
from carrel.errors import CapacityError
from carrel.request import RequestStatus
from engine_fakes import Engine, chat_request, expected_tokens, pooling_request
from hypothesis import given, settings
from hypothesis import strategies as st

LENGTHS = st.integers(1, 30)
ENDS = frozenset(range(0, 1000, 8))


@dataclass(frozen=True)
class Arrival:
    step: int  # before this step
    pooling: bool
    length: int
    head: int  # prompts of the same head share their beginning
    max_tokens: int
    priority: int
    salt: str | None
    abort_after: int | None  # so many steps later
    stops: bool = False  # at some token ids, about one in eight
    asks: bool = False  # for log probabilities of its prompt
    penalised: bool = False  # what it samples depends on its tokens, so it cannot run ahead of them

    @property
    def prompt(self):
        return [self.head, *range(100, 99 + self.length)]

    def request(self, name):
        if self.pooling:
            return pooling_request(name, self.length, priority=self.priority)
        return chat_request(
            name,
            self.prompt,
            max_tokens=self.max_tokens,
            priority=self.priority,
            cache_salt=self.salt,
            eos=ENDS if self.stops else frozenset(),
            presence_penalty=0.5 * self.penalised,
            prompt_logprobs=0 if self.asks else None,
        )

    @property
    def answer(self):
        """What the model says to this alone."""
        tokens = expected_tokens(self.prompt, self.max_tokens)
        ends = [index for index, token in enumerate(tokens) if self.stops and token in ENDS]
        return tokens[: ends[0] + 1] if ends else tokens


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        step=st.integers(0, 12),
        pooling=st.booleans(),
        length=LENGTHS,
        head=st.integers(0, 1),
        max_tokens=st.integers(1, 25),
        priority=st.integers(0, 1),
        salt=st.sampled_from([None, None, "盐"]),
        abort_after=st.none() | st.integers(0, 12),
        stops=st.booleans(),
        asks=st.sampled_from([False, False, True]),
        penalised=st.sampled_from([False, False, False, False, True]),
    ),
    min_size=1,
    max_size=12,
)
ENGINES = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(2, 24),
        "block_size": st.sampled_from([1, 2, 4]),
        "enable_caching": st.booleans(),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.integers(1, 40),
        "max_pooling_tokens_while_decoding": st.none() | st.integers(1, 40),
    }
)


class Run:
    """Plays ``arrivals`` on an engine and checks the rules of every step."""

    def __init__(self, arrivals, options):
        self.engine = Engine(**options)
        self.arrivals = {f"r{index}": arrival for index, arrival in enumerate(arrivals)}
        self.requests = {}
        self.refused = set()
        self.gave_way = False

    def play(self, max_steps=3000):
        for step in range(max_steps):
            self.arrive(step)
            if self.engine.core.has_work:
                self.step()
            elif step > 30:
                break
        assert not self.engine.scheduler.has_unfinished, "the engine does not come to an end"
        self.engine.scheduler.check_idle()

    def arrive(self, step):
        for name, arrival in self.arrivals.items():
            if arrival.step == step:
                self.add(name, arrival)
            if arrival.abort_after is not None and arrival.step + arrival.abort_after == step:
                self.engine.outputs += self.engine.core.abort([name])

    def add(self, name, arrival):
        request = arrival.request(name)
        cache = self.engine.kv_cache
        if not arrival.pooling and arrival.length + arrival.max_tokens - 1 > cache.num_blocks * cache.block_size:
            with pytest.raises(CapacityError):
                self.engine.add(request)
            self.refused.add(name)
        else:
            self.engine.add(request)
            self.requests[name] = request

    def step(self):
        if self.engine.device is self.engine.executor:
            self.checked_step()
        else:
            self.engine.step()

    def checked_step(self):
        scheduler, executor = self.engine.scheduler, self.engine.executor
        decoding = {r.request_id for r in self.requests.values() if self.decodes(r)}
        step = scheduler.schedule()
        items = [item for batch in step.batches for item in batch.requests]
        assert items, "a step makes progress"
        names = [item.request.request_id for item in items]
        assert len(set(names)) == len(names)
        assert {batch.model for batch in step.batches} >= {item.request.model for item in items}
        preempted = {request.request_id for request in step.preempted}
        assert decoding - preempted <= set(names), "every chat that can decode does"
        assert not preempted & set(names), "who gave way does not come back in the same step"
        self.check_budget(items, decoding)
        self.check_sharing(items, decoding)
        results = [executor.execute(batch) for batch in step.batches]
        self.engine.outputs += scheduler.update(step, results)
        self.engine.kv_cache.check_integrity()

    def decodes(self, request):
        return request.status.name == "RUNNING" and 0 < request.num_prefill_tokens <= request.num_computed_tokens

    def check_budget(self, items, decoding):
        budget = self.engine.scheduler._planner.max_num_batched_tokens
        chats = [item for item in items if not item.request.is_pooling]
        assert len(chats) <= self.engine.scheduler._planner.max_num_seqs
        if sum(item.num_scheduled_tokens for item in items) > budget:
            others = [item for item in items if item.request.request_id not in decoding]
            assert [item.request.is_pooling for item in others] == [True], (
                "only a single pooled item exceeds the budget"
            )

    def check_sharing(self, items, decoding):
        """Prefill is not pushed out by pooling in two steps in a row; beside decodes pooling keeps its share."""
        pooled = [item.num_scheduled_tokens for item in items if item.request.is_pooling]
        share = self.engine.scheduler._pooling.max_tokens_beside_chat
        if any(item.request.request_id in decoding for item in items):
            assert sum(pooled) <= max(share, pooled[0] if pooled else 0)
        prefills = [i for i in items if not i.request.is_pooling and i.request.request_id not in decoding]
        unfinished = [r for r in self.requests.values() if not r.status.finished and not r.is_pooling]
        left = self.engine.scheduler._planner.max_num_batched_tokens - sum(i.num_scheduled_tokens for i in items)
        gave_way = bool(pooled) and not prefills and left <= 0 and any(r.request_id not in decoding for r in unfinished)
        assert not (gave_way and self.gave_way), "pooling took the place of prefill twice in a row"
        self.gave_way = gave_way

    def check_answers(self):
        tokens = self.engine.tokens()
        ends = [output.request_id for output in self.engine.outputs if output.finished]
        assert sorted(ends) == sorted(self.requests), "exactly one terminal output each"
        for name, request in self.requests.items():
            end, arrival = self.engine.last(name), self.arrivals[name]
            self.check_prompt(name, arrival)
            assert end.finished, "nothing comes after the terminal output"
            if end.finish_reason == "abort":
                assert arrival.abort_after is not None
                assert tokens[name] == expected_tokens(arrival.prompt, len(tokens[name]))
            elif request.is_pooling:
                assert end.pooled.tolist() == [arrival.length]
            else:
                assert tokens[name] == arrival.answer
                self.check_computed_once(request)

    def check_prompt(self, name, arrival):
        """Log probabilities of the prompt come once, of each of its tokens but the first, with the first token."""
        outputs = [output for output in self.engine.outputs if output.request_id == name]
        told = [output for output in outputs if output.prompt_logprobs is not None]
        if not arrival.asks or arrival.pooling:
            assert told == []
            return
        assert told == [output for output in outputs if output.new_token_ids][:1]
        for output in told:
            found = [(entry.token_ids[0], -entry.logprobs[0]) for entry in output.prompt_logprobs]
            assert found == [(token, place) for place, token in enumerate(arrival.prompt)][1:]
        assert not self.engine.scheduler._prompt_logprobs

    def check_computed_once(self, request):
        """Chunks add up: every token but the last sampled one is computed once, or found in the cache.

        With overlap one more is, if the last one was a stop that nobody could know.
        """
        num_computed = self.engine.executor.num_computed[request.request_id]
        num_needed = request.num_tokens - 1 - request.num_cached_tokens
        num_in_vain = num_computed - num_needed
        may_run_on = request.status is RequestStatus.FINISHED_STOPPED and self.engine.device is not self.engine.executor
        assert request.num_preemptions > 0 or 0 <= num_in_vain <= may_run_on


@settings(max_examples=250, deadline=None)
@given(arrivals=ARRIVALS, options=ENGINES)
def test_any_workload_ends_with_the_answers_of_each_request_alone(arrivals, options):
    run = Run(arrivals, options)
    run.play()
    run.check_answers()


@settings(max_examples=300, deadline=None)
@given(arrivals=ARRIVALS, options=ENGINES)
def test_overlap_changes_no_answer(arrivals, options):
    run = Run(arrivals, {**options, "overlap": True})
    run.play()
    run.check_answers()


@settings(max_examples=40, deadline=None)
@given(arrivals=ARRIVALS, options=ENGINES)
def test_the_prefix_cache_changes_no_answer(arrivals, options):
    patient = [Arrival(**{**vars(arrival), "abort_after": None}) for arrival in arrivals]
    runs = [Run(patient, {**options, "enable_caching": caching}) for caching in (True, False)]
    for run in runs:
        run.play()
    assert runs[0].engine.tokens() == runs[1].engine.tokens()


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 60),
    budget=st.integers(2, 20),
    share=st.integers(1, 20),
    num_chats=st.integers(1, 4),
    prompt_len=st.integers(1, 12),
)
def test_chat_traffic_without_end_never_starves_an_input_to_pool(length, budget, share, num_chats, prompt_len):
    engine = Engine(max_num_batched_tokens=budget, max_pooling_tokens_while_decoding=share, max_num_seqs=num_chats)
    engine.add(pooling_request("p", length))
    num_steps = 0
    while not any(output.request_id == "p" for output in engine.outputs):
        while engine.scheduler.num_waiting < 3:
            name = f"c{engine.scheduler._num_accepted}"
            engine.add(chat_request(name, [engine.scheduler._num_accepted] * prompt_len, max_tokens=3))
        engine.step()
        num_steps += 1
        assert num_steps <= 2 * (length // share + 2)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 30),
    budget=st.integers(1, 20),
    share=st.integers(1, 40),
    prompt_len=st.integers(1, 40),
)
def test_embedding_traffic_without_end_never_stalls_a_chat(length, budget, share, prompt_len):
    engine = Engine(max_num_batched_tokens=budget, max_pooling_tokens_while_decoding=share)
    chat = chat_request("chat", range(prompt_len), max_tokens=5)
    engine.add(chat)
    num_steps = num_pooled = 0
    while not chat.status.finished:
        while engine.scheduler.num_waiting < 20:
            num_pooled += 1
            engine.add(pooling_request(f"p{num_pooled}", length))
        num_output_tokens = chat.num_output_tokens
        engine.step()
        num_steps += 1
        assert chat.num_output_tokens == num_output_tokens + 1 or num_output_tokens == 0, "a decoding chat never waits"
        # Prefill gets at least half the steps, and in those at least what the share leaves of the budget.
        assert num_steps <= 2 * (prompt_len // max(1, budget - max(share, length)) + 2) + 5
