"""The packed buffers say the same as the naive batch, for any mix of requests, step after step."""

import random

import numpy as np
import pytest
import torch
from carrel.layers.attention_metadata import AttentionMetadata
from carrel.request import Request
from carrel.step import ScheduledRequest
from carrel.worker.chat_inputs import UPDATE_SIZES, ChatInputs, ChatStep
from carrel.worker.device_stream import DeviceStream
from carrel.worker.forward_batch import build_batch
from carrel.worker.input_buffers import InputBuffers, Layout, Section
from carrel.worker.request_rows import RequestRows
from carrel.worker.step_limits import StepLimits
from driving import chat_request
from hypothesis import given, settings
from hypothesis import strategies as st

CPU = torch.device("cpu")
BLOCK_SIZE = 4
LIMITS = StepLimits(max_num_seqs=6, max_num_batched_tokens=40, max_model_len=64)


def make_inputs(limits: StepLimits = LIMITS) -> ChatInputs:
    return ChatInputs(DeviceStream(CPU), limits, block_size=BLOCK_SIZE)


def assert_is_the_naive_batch(inputs: ChatInputs, step: ChatStep) -> None:
    naive = build_batch(list(step.items), block_size=BLOCK_SIZE, causal=True, device=CPU)
    tensors, count, n = step.tensors, naive.num_tokens, len(step.items)
    assert inputs.input_ids(tensors)[:count].equal(naive.input_ids)
    assert tensors["positions"][:count].equal(naive.positions)
    assert tensors["slot_mapping"][:count].equal(naive.plan.slot_mapping)
    assert tensors["logits_indices"][: len(step.sampled)].equal(naive.logits_indices)
    assert step.sampled == naive.sampled
    packed, plain = inputs.plan(step).metadata, naive.plan.metadata
    assert packed.cu_seqlens_q[: n + 1].equal(plain.cu_seqlens_q)
    assert packed.seq_lens[:n].equal(plain.seq_lens)
    assert_same_tables(packed, plain)
    assert (packed.num_decodes, packed.max_query_len, packed.max_seq_len, packed.is_fresh) == (
        plain.num_decodes, plain.max_query_len, plain.max_seq_len, plain.is_fresh,
    )  # fmt: skip


def assert_same_tables(packed: AttentionMetadata, plain: AttentionMetadata) -> None:
    assert packed.block_tables is not None and plain.block_tables is not None
    assert packed.block_tables.dtype == plain.block_tables.dtype == torch.int32
    for row, seq_len in enumerate(plain.seq_lens.tolist()):
        used = -(-seq_len // BLOCK_SIZE)
        assert packed.block_tables[row, :used].equal(plain.block_tables[row, :used])


class Schedule:
    """Random steps over requests that begin, go on, give way and end, as a scheduler would make them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.running: list[Request] = []
        self.tables: dict[Request, list[int]] = {}
        self.count = 0

    def step(self) -> list[ScheduledRequest]:
        while len(self.running) < self.random.randint(1, LIMITS.max_num_seqs):
            self.count += 1
            ids = [self.random.randrange(100) for _ in range(self.random.randint(1, 20))]
            self.running.append(chat_request(ids, f"r{self.count}"))
        items = [self._item(request) for request in self.running if self.random.random() < 0.8]
        budget = LIMITS.max_num_batched_tokens
        fitting = [item for item in items if (budget := budget - item.num_scheduled_tokens) >= 0]
        return sorted(fitting, key=lambda item: item.num_scheduled_tokens > 1)

    def _item(self, request: Request) -> ScheduledRequest:
        start, total = request.num_computed_tokens, request.num_tokens
        count = self.random.randint(1, total - start)
        table = self.tables.setdefault(request, [])
        while len(table) * BLOCK_SIZE < start + count + self.random.randint(0, 5):
            table.append(self.random.randrange(50))
        return ScheduledRequest(request, count, table, start, start + count == total)

    def take(self, items: list[ScheduledRequest]) -> list[str]:
        """Books after the step; ids of those that end."""
        ended = []
        for item in items:
            request = item.request
            request.num_computed_tokens += item.num_scheduled_tokens
            if item.samples:
                request.output_token_ids.append(self.random.randrange(100))
            if self.random.random() < 0.1:  # gives way: other blocks next time
                request.num_computed_tokens, self.tables[request] = 0, []
                request.num_preemptions += 1
            elif self.random.random() < 0.1 or request.num_tokens > 40:
                self.running.remove(request)
                ended.append(request.request_id)
        return ended


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_packed_steps_are_the_naive_batches(seed):
    schedule, inputs = Schedule(seed), make_inputs()
    for _ in range(12):
        items = schedule.step()
        if items:
            assert_is_the_naive_batch(inputs, inputs.stage(items))
            inputs.rows.release(schedule.take(items))


@pytest.mark.parametrize("padded", [3, 4, 6])
def test_padding_sees_nothing_and_stores_nothing(padded):
    inputs = make_inputs()
    requests = [chat_request([1, 2, 3], f"r{i}") for i in range(3)]
    items = [ScheduledRequest(request, 1, [5 + i, 9 + i], 2, True) for i, request in enumerate(requests)]
    step = inputs.stage(items, num_padded=padded)
    assert_is_the_naive_batch(inputs, step)
    tensors = step.tensors
    assert all(tensor.shape[0] in (padded, padded + 1) for name, tensor in tensors.items() if "update" not in name)
    assert tensors["slot_mapping"][3:].tolist() == [-1] * (padded - 3)
    assert tensors["seq_lens"][3:].tolist() == [0] * (padded - 3)
    assert tensors["cu_seqlens_q"].tolist() == list(range(padded + 1))
    assert tensors["sample_rows"][3:].tolist() == [inputs.rows.padding] * (padded - 3)
    assert inputs.input_ids(tensors).shape == (padded,)


def test_a_padded_step_always_lies_in_the_same_place():
    inputs = make_inputs()
    requests = [chat_request([7] * 9, f"r{i}") for i in range(5)]
    read = ("source", "positions", "slot_mapping", "seq_lens", "cu_seqlens_q", "rows")  # by a captured graph
    expected = {name: inputs.decode_tensors(6)[name].data_ptr() for name in read}
    for count, start in ((5, 3), (2, 4), (4, 5)):
        items = [ScheduledRequest(request, 1, [i, 9, 3], start) for i, request in enumerate(requests[:count])]
        tensors = inputs.stage(items, num_padded=6).tensors
        assert {name: tensors[name].data_ptr() for name in expected} == expected


def test_a_token_of_the_step_before_comes_from_the_device():
    inputs = make_inputs()
    known, unknown = chat_request([1, 2, 3], "known"), chat_request([4, 5], "unknown")
    first = inputs.stage([ScheduledRequest(known, 2, [0], 0), ScheduledRequest(unknown, 2, [1], 0, True)])
    inputs.last_tokens.index_copy_(0, first.tensors["sample_rows"], torch.tensor([77]))
    items = [ScheduledRequest(known, 1, [0], 2, True), ScheduledRequest(unknown, 1, [1], 2, True, True)]
    assert inputs.input_ids(inputs.stage(items).tensors).tolist() == [3, 77]
    assert inputs.input_ids(inputs.stage(items, num_padded=4).tensors).tolist()[:2] == [3, 77]
    assert inputs.input_ids(inputs.stage(items[1:]).tensors).tolist() == [77]


def test_only_new_blocks_travel():
    rows = RequestRows(4, 8)
    request = chat_request([1] * 9)
    item = ScheduledRequest(request, 9, [4, 5, 6], 0)
    row = rows.assign([item])
    assert rows.update_tables([item], row).block_ids.tolist() == [4, 5, 6]
    item.block_table.append(7)
    update = rows.update_tables([item], rows.assign([item]))
    assert update.block_ids.tolist() == [7]
    assert update.places.tolist() == [int(row[0]) * 8 + 3]
    assert not len(rows.update_tables([item], row).places)
    request.num_preemptions += 1
    item.block_table[:] = [1, 2, 3, 0]
    assert rows.update_tables([item], row).block_ids.tolist() == [1, 2, 3, 0]


def test_rows_of_requests_that_gave_way_go_to_others():
    rows = RequestRows(4, 8)
    items = [ScheduledRequest(chat_request([1], f"r{i}"), 1, [0], 0) for i in range(12)]
    for first in range(0, 12, 2):  # nobody is released
        taken = [rows.assign(items[first : first + 2]).tolist() for _ in range(2)]
        assert taken[0] == taken[1] and len(set(taken[0])) == 2


def test_a_released_row_is_free_and_an_unknown_id_is_passed_over():
    rows = RequestRows(1, 8)
    first, second = (ScheduledRequest(chat_request([1], name), 1, [0], 0) for name in "ab")
    assert rows.assign([first]).tolist() == [0]
    rows.release(["nobody", "a"])
    assert rows.assign([second]).tolist() == [0]


def test_very_many_new_blocks_travel_alone():
    inputs = make_inputs(StepLimits(max_num_seqs=2, max_num_batched_tokens=8, max_model_len=BLOCK_SIZE * 3000))
    table = np.random.default_rng(0).integers(0, 9999, 3000).tolist()
    items = [
        ScheduledRequest(chat_request([1] * 11_999, name), 1, table, 11_998, True)
        for name in "ab"
    ]  # fmt: skip
    assert 2 * len(table) > UPDATE_SIZES[-1]
    assert_is_the_naive_batch(inputs, inputs.stage(items))


def test_sections_are_aligned_for_kernels():
    buffers = InputBuffers(DeviceStream(CPU), 100, reserved=3)
    layout = Layout([Section("a", 3), Section("b", 5, narrow=True), Section("c", 1)])
    assert layout.num_words == 4 + 4 + 2
    assert layout.first_word("b") == 4
    arrays = buffers.stage(layout)
    for array in arrays.values():
        array[:] = np.arange(array.size) + 1
    tensors = buffers.upload()
    base = buffers.words.data_ptr()
    assert all((tensor.data_ptr() - base) % 16 == 0 for tensor in tensors.values())
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "a": [1, 2, 3],
        "b": [1, 2, 3, 4, 5],
        "c": [1],
    }
    assert tensors["b"].dtype == torch.int32
    assert not buffers.words[:3].any()


def test_two_steps_do_not_share_their_staging():
    buffers = InputBuffers(DeviceStream(CPU), 10)
    layout = Layout([Section("a", 2)])
    first = buffers.stage(layout, keep=True)["a"]
    first[:] = 1
    buffers.upload()
    second = buffers.stage(layout, keep=True)["a"]
    second[:] = 2
    assert first.tolist() == [1, 1]
    buffers.upload()
    assert buffers.stage(layout, keep=True)["a"] is first, "its turn again"


def test_a_staging_buffer_waits_for_its_own_last_copy_alone():
    """The device may be a step behind: what it has not read yet is not written over, and nothing else is waited for."""
    waits: list[int] = []

    class LoggedEvent:
        count = 0

        def __init__(self) -> None:
            LoggedEvent.count += 1
            self.number = LoggedEvent.count

        def wait(self) -> None:
            waits.append(self.number)

    class LoggedStream(DeviceStream):
        def record(self):
            return LoggedEvent()

    buffers, layout = InputBuffers(LoggedStream(CPU), 10), Layout([Section("a", 2)])
    for _ in range(5):
        buffers.stage(layout)
        buffers.upload()
    assert waits == [1, 2, 3]
