"""One step of a chat model as numbers on the device: what to compute, where its KV lies, who samples.

::

    items         | decode A | decode B | chunk of C .. | padding |
    source        |  row A   | place of the id, copied | padding |   where each input token is found: see _fill_source
    slot_mapping  |  KV slot of each token              |   -1    |
    rows          |    A     |    B     |       C       | padding |   in the device's block table

Host work is a few numpy calls for a step, and for each request a few attribute reads. Knows requests, rows and blocks;
knows no layers and no graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from carrel.layers.attention_metadata import AttentionMetadata
from carrel.layers.attention_plan import AttentionPlan
from carrel.step import ScheduledRequest
from carrel.worker.device_stream import DeviceStream
from carrel.worker.input_buffers import Arrays, InputBuffers, IntArray, Layout, Section, Tensors
from carrel.worker.request_rows import RequestRows, TableUpdate
from carrel.worker.step_limits import StepLimits

UPDATE_SIZES = (0, 64, 512, 4096)  # new blocks that travel with a step, rounded up; more of them travel alone


class StepShape(NamedTuple):
    """The sizes of a step: of its arrays, and so of their places in the buffers."""

    num_tokens: int
    num_seqs: int
    num_samples: int
    num_updates: int = 0  # of block tables

    @staticmethod
    def decode(num_seqs: int, num_updates: int = 0) -> StepShape:
        """Every sequence computes one token and samples: what a CUDA graph is captured for."""
        return StepShape(num_seqs, num_seqs, num_seqs, num_updates)

    def layout(self) -> Layout:
        """What a graph reads comes first: it lies at the same place whatever else travels."""
        return Layout(
            [
                Section("source", self.num_tokens),
                Section("positions", self.num_tokens),
                Section("slot_mapping", self.num_tokens),
                Section("seq_lens", self.num_seqs, narrow=True),
                Section("cu_seqlens_q", self.num_seqs + 1, narrow=True),
                Section("rows", self.num_seqs, narrow=True),
                Section("logits_indices", self.num_samples),
                Section("sample_rows", self.num_samples),
                Section("token_ids", self.num_tokens),
                Section("update_places", self.num_updates),
                Section("update_blocks", self.num_updates, narrow=True),
            ]
        )


@dataclass(slots=True)
class ChatStep:
    """A step on the device. Rows of ``items`` come first; a padded step has more sequences than ``items``."""

    items: Sequence[ScheduledRequest]
    shape: StepShape
    sampled: list[int]  # [num_samples] index into ``items``
    sampled_items: Sequence[ScheduledRequest]  # [num_samples]
    rows: IntArray  # [len(items)] on the host
    num_decodes: int
    max_query_len: int
    max_seq_len: int
    is_fresh: bool
    tensors: Tensors


class ChatInputs:
    """The persistent buffers of one chat model.

    ``last_tokens`` [num_rows + 1] int64 holds the token that each request sampled last, by row: the input of its next
    step, which the host may not know yet. ``block_tables`` [num_rows + 1, max_blocks] int32.
    """

    def __init__(self, stream: DeviceStream, limits: StepLimits, *, block_size: int) -> None:
        self.limits, self.block_size, self._stream = limits, block_size, stream
        num_rows = 2 * limits.max_num_seqs
        self.rows = RequestRows(num_rows, -(-limits.max_model_len // block_size))
        largest = StepShape(limits.max_tokens, limits.max_num_seqs, limits.max_num_seqs, UPDATE_SIZES[-1])
        self.buffers = InputBuffers(stream, largest.layout().num_words, reserved=num_rows + 1)
        self._decode_layouts: dict[StepShape, Layout] = {}
        self.last_tokens = self.buffers.words[: num_rows + 1]
        self.block_tables = torch.zeros(self.rows.block_tables.shape, dtype=torch.int32, device=stream.device)

    def stage(self, items: Sequence[ScheduledRequest], *, num_padded: int | None = None) -> ChatStep:
        """Send a step to the device. ``num_padded``: as a decode step of that many sequences, the rest is padding."""
        counts = np.array([item.num_scheduled_tokens for item in items], dtype=np.int64)
        starts = np.array([item.num_computed_tokens for item in items], dtype=np.int64)
        sampled = [index for index, item in enumerate(items) if item.samples]
        rows = self.rows.assign(items)
        update = self.rows.update_tables(items, rows)
        num_tokens = int(counts.sum())
        assert num_padded is None or num_tokens == len(items) <= num_padded, "graphs are for decode steps"
        travels = _travelling(len(update.places))
        if num_padded is None:
            shape = StepShape(num_tokens, len(items), len(sampled), travels)
        else:
            shape = StepShape.decode(num_padded, travels)
        samplers = items if len(sampled) == len(items) else [items[index] for index in sampled]
        step = ChatStep(items, shape, sampled, samplers, rows, *_bounds(starts, counts), tensors={})
        layout = self._layout(shape, keep=num_padded is not None)
        arrays = self.buffers.stage(layout, keep=num_padded is not None)
        self._fill(step, arrays, starts, counts)
        self._fill_source(step, arrays, layout)
        self._fill_updates(arrays, update)
        step.tensors = self.buffers.upload()
        self._update_tables(step.tensors, update)
        return step

    def input_ids(self, tensors: Tensors) -> Tensor:
        """[num_tokens] int64: from the host or from the last step, in one gather."""
        return self.buffers.words.index_select(0, tensors["source"])

    def plan(self, step: ChatStep) -> AttentionPlan:
        """For kernels, over tensors of just the step's size."""
        return self._plan(step.tensors, step.num_decodes, step.max_query_len, step.max_seq_len, step.is_fresh)

    def decode_plan(self, tensors: Tensors) -> AttentionPlan:
        """For a captured graph: whatever lengths the tensors will hold."""
        return self._plan(tensors, tensors["seq_lens"].shape[0], 1, self.limits.max_model_len, True)

    def decode_tensors(self, num_seqs: int) -> Tensors:
        """Where a decode step that is padded to ``num_seqs`` will lie."""
        return self.buffers.views(StepShape.decode(num_seqs).layout())

    def _layout(self, shape: StepShape, *, keep: bool) -> Layout:
        if not keep:
            return shape.layout()
        if shape not in self._decode_layouts:
            self._decode_layouts[shape] = shape.layout()
        return self._decode_layouts[shape]

    def clear(self, tensors: Tensors) -> None:
        """Nothing but padding, so that a warm-up stores and sees nothing."""
        for name, tensor in tensors.items():
            tensor.fill_({"slot_mapping": -1, "source": self.rows.padding, "rows": self.rows.padding}.get(name, 0))

    def _plan(
        self, tensors: Tensors, num_decodes: int, max_query_len: int, max_seq_len: int, is_fresh: bool
    ) -> AttentionPlan:
        metadata = AttentionMetadata(
            cu_seqlens_q=tensors["cu_seqlens_q"],
            seq_lens=tensors["seq_lens"],
            block_tables=self.block_tables.index_select(0, tensors["rows"]),
            num_seqs=tensors["seq_lens"].shape[0],
            num_decodes=num_decodes,
            max_query_len=max_query_len,
            max_seq_len=max_seq_len,
            is_fresh=is_fresh,
        )
        return AttentionPlan(
            [], True, self.block_size, self._stream.device, slot_mapping=tensors["slot_mapping"], packed=metadata
        )

    def _fill(self, step: ChatStep, arrays: Arrays, starts: IntArray, counts: IntArray) -> None:
        """All but ``source``: what the items say, then padding."""
        n, ends = len(step.items), counts.cumsum()
        total, num_samples = int(ends[-1]), len(step.sampled)
        if step.max_query_len == 1:
            positions, rows = starts, step.rows
        else:
            of_token = np.repeat(np.arange(n), counts)  # which item each token belongs to
            positions, rows = np.arange(total) - (ends - counts - starts)[of_token], step.rows[of_token]
        blocks, offsets = np.divmod(positions, self.block_size)
        slots = self.rows.block_tables[rows, blocks].astype(np.int64) * self.block_size + offsets
        _put(arrays["positions"], positions, padding=0)
        _put(arrays["slot_mapping"], slots, padding=-1)
        _put(arrays["seq_lens"], starts + counts, padding=0)
        _put(arrays["rows"], step.rows, padding=self.rows.padding)
        _put(arrays["logits_indices"], ends[step.sampled] - 1 if num_samples else ends[:0], padding=0)
        _put(arrays["sample_rows"], step.rows[step.sampled] if num_samples else ends[:0], padding=self.rows.padding)
        cu_seqlens = arrays["cu_seqlens_q"]
        cu_seqlens[0] = 0
        cu_seqlens[1 : n + 1] = ends
        cu_seqlens[n + 1 :] = np.arange(total + 1, total + len(cu_seqlens) - n)

    def _fill_source(self, step: ChatStep, arrays: Arrays, layout: Layout) -> None:
        """Ids that the host knows are copied, and ``source`` is their place; else it is the request's row.

        ``InputBuffers.words`` begins with ``last_tokens``, so both are indices into it.
        """
        source, items = arrays["source"], step.items
        on_device = [index for index, item in enumerate(items) if item.input_on_device]
        if len(on_device) == len(items):
            _put(source, step.rows, padding=self.rows.padding)
            return
        known: list[int] = []
        for item in items:
            ids = item.request.token_ids(item.num_computed_tokens, item.num_tokens)
            known += [0] if item.input_on_device else ids
        first = self.buffers.first_word + layout.first_word("token_ids")
        _put(source, np.arange(first, first + len(known)), padding=self.rows.padding)
        _put(arrays["token_ids"], known, padding=0)
        if on_device:
            source[arrays["cu_seqlens_q"][on_device]] = step.rows[on_device]

    def _fill_updates(self, arrays: Arrays, update: TableUpdate) -> None:
        """What is left over is written to the row that belongs to nobody."""
        if len(arrays["update_places"]):
            _put(arrays["update_places"], update.places, padding=self.rows.padding * self.rows.max_blocks)
            _put(arrays["update_blocks"], update.block_ids, padding=0)

    def _update_tables(self, tensors: Tensors, update: TableUpdate) -> None:
        if not len(update.places):
            return
        places, blocks = tensors["update_places"], tensors["update_blocks"]
        if not len(places):  # too many to travel with the step
            places = torch.from_numpy(update.places).to(self._stream.device)
            blocks = torch.from_numpy(update.block_ids).to(self._stream.device)
        self.block_tables.view(-1).index_copy_(0, places, blocks)


def _travelling(num_updates: int) -> int:
    """Places in the buffers for so many updates; 0 if they are too many."""
    return next((size for size in UPDATE_SIZES if num_updates <= size), 0)


def _put(array: IntArray, values: IntArray | list[int], *, padding: int) -> None:
    array[: len(values)] = values
    if len(values) < len(array):
        array[len(values) :] = padding


def _bounds(starts: IntArray, counts: IntArray) -> tuple[int, int, int, bool]:
    """(num_decodes, max_query_len, max_seq_len, is_fresh) as AttentionMetadata defines them."""
    longer = np.flatnonzero(counts != 1)
    num_decodes = int(longer[0]) if len(longer) else len(counts)
    is_fresh = not starts[num_decodes:].any()
    return num_decodes, int(counts.max()), int((starts + counts).max()), is_fresh
