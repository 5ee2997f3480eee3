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

import numpy as np
import torch
from torch import Tensor

from carrel.layers.attention_metadata import AttentionMetadata
from carrel.layers.attention_plan import AttentionPlan
from carrel.step import ScheduledRequest
from carrel.worker.device_stream import DeviceStream
from carrel.worker.input_buffers import InputBuffers, IntArray, Section, Tensors, words_of
from carrel.worker.request_rows import RequestRows, TableUpdate
from carrel.worker.step_limits import StepLimits

UPDATES_PER_STEP = 4096  # new blocks that travel with the step; more of them travel alone


@dataclass(frozen=True, slots=True)
class StepShape:
    """The sizes of a step: of its arrays, and so of their places in the buffers."""

    num_tokens: int
    num_seqs: int
    num_samples: int

    @staticmethod
    def decode(num_seqs: int) -> StepShape:
        """Every sequence computes one token and samples: what a CUDA graph is captured for."""
        return StepShape(num_seqs, num_seqs, num_seqs)

    def sections(self) -> list[Section]:
        return [
            Section("source", self.num_tokens),
            Section("positions", self.num_tokens),
            Section("slot_mapping", self.num_tokens),
            Section("logits_indices", self.num_samples),
            Section("sample_rows", self.num_samples),
            Section("seq_lens", self.num_seqs, narrow=True),
            Section("cu_seqlens_q", self.num_seqs + 1, narrow=True),
            Section("rows", self.num_seqs, narrow=True),
            Section("token_ids", self.num_tokens),
        ]


@dataclass(slots=True)
class ChatStep:
    """A step on the device. Rows of ``items`` come first; a padded step has more sequences than ``items``."""

    items: Sequence[ScheduledRequest]
    shape: StepShape
    sampled: list[int]  # [num_samples] index into ``items``
    rows: IntArray  # [len(items)] on the host
    num_decodes: int
    max_query_len: int
    max_seq_len: int
    is_fresh: bool
    tensors: Tensors

    @property
    def sampled_items(self) -> list[ScheduledRequest]:
        return [self.items[index] for index in self.sampled]


class ChatInputs:
    """The persistent buffers of one chat model.

    ``last_tokens`` [num_rows + 1] int64 holds the token that each request sampled last, by row: the input of its next
    step, which the host may not know yet. ``block_tables`` [num_rows + 1, max_blocks] int32.
    """

    def __init__(self, stream: DeviceStream, limits: StepLimits, *, block_size: int) -> None:
        self.limits, self.block_size, self._stream = limits, block_size, stream
        num_rows = 2 * limits.max_num_seqs
        self.rows = RequestRows(num_rows, -(-limits.max_model_len // block_size))
        largest = StepShape(limits.max_tokens, limits.max_num_seqs, limits.max_num_seqs)
        capacity = words_of([*largest.sections(), *_update_sections(UPDATES_PER_STEP)])
        self.buffers = InputBuffers(stream, capacity, reserved=num_rows + 1)
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
        shape = StepShape.decode(num_padded) if num_padded else StepShape(num_tokens, len(items), len(sampled))
        step = ChatStep(items, shape, sampled, rows, *_bounds(starts, counts), tensors={})
        self._fill(step, starts, counts, update)
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
        return self.buffers.views(StepShape.decode(num_seqs).sections())

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

    def _fill(self, step: ChatStep, starts: IntArray, counts: IntArray, update: TableUpdate) -> None:
        sections = step.shape.sections()
        travels = 0 < len(update.places) <= UPDATES_PER_STEP
        if travels:
            sections += _update_sections(len(update.places))
        arrays = self.buffers.stage(sections)
        n, total = len(step.items), int(counts.sum())
        ends = np.cumsum(counts)
        of_row = np.repeat(np.arange(n), counts)  # which item each token belongs to
        positions = np.arange(total) - (ends - counts - starts)[of_row]
        arrays["positions"][:total] = positions
        blocks = self.rows.block_tables[step.rows[of_row], positions // self.block_size]
        arrays["slot_mapping"][:total] = blocks.astype(np.int64) * self.block_size + positions % self.block_size
        arrays["seq_lens"][:n] = starts + counts
        arrays["cu_seqlens_q"][0] = 0
        arrays["cu_seqlens_q"][1 : n + 1] = ends
        arrays["rows"][:n] = step.rows
        arrays["logits_indices"][: len(step.sampled)] = ends[step.sampled] - 1
        arrays["sample_rows"][: len(step.sampled)] = step.rows[step.sampled]
        self._fill_source(step, arrays["source"], arrays["token_ids"], ends)
        _pad(arrays["cu_seqlens_q"], n + 1, np.arange(total + 1, total + 1 + step.shape.num_seqs - n))
        for name, value in (("positions", 0), ("slot_mapping", -1), ("seq_lens", 0), ("rows", self.rows.padding)):
            _pad(arrays[name], total if name in ("positions", "slot_mapping") else n, value)
        _pad(arrays["source"], total, self.rows.padding)
        _pad(arrays["logits_indices"], len(step.sampled), 0)
        _pad(arrays["sample_rows"], len(step.sampled), self.rows.padding)
        if travels:
            arrays["update_places"][:] = update.places
            arrays["update_blocks"][:] = update.block_ids
        step.tensors = self.buffers.upload(sections)
        self._update_tables(step.tensors, update, travels=travels)

    def _fill_source(self, step: ChatStep, source: IntArray, token_ids: IntArray, ends: IntArray) -> None:
        """Ids that the host knows are copied, and ``source`` is their place; else it is the request's row.

        ``InputBuffers.words`` begins with ``last_tokens``, so both are indices into it.
        """
        total = int(ends[-1])
        first = self.buffers.first_word + words_of(step.shape.sections()[:-1])
        source[:total] = np.arange(first, first + total)
        on_device = [index for index, item in enumerate(step.items) if item.input_on_device]
        if on_device:
            source[ends[on_device] - 1] = step.rows[on_device]
        token_ids[:] = 0  # what lies there from other steps is no id
        if len(on_device) == len(step.items):
            return
        known: list[int] = []
        for item in step.items:
            if item.input_on_device:
                known.append(0)
            else:
                known += item.request.token_ids(item.num_computed_tokens, item.num_tokens)
        token_ids[:total] = known

    def _update_tables(self, tensors: Tensors, update: TableUpdate, *, travels: bool) -> None:
        if not len(update.places):
            return
        if travels:
            places, blocks = tensors["update_places"], tensors["update_blocks"]
        else:
            places = torch.from_numpy(update.places).to(self._stream.device)
            blocks = torch.from_numpy(update.block_ids).to(self._stream.device)
        self.block_tables.view(-1).index_copy_(0, places, blocks)


def _update_sections(count: int) -> list[Section]:
    return [Section("update_places", count), Section("update_blocks", count, narrow=True)]


def _bounds(starts: IntArray, counts: IntArray) -> tuple[int, int, int, bool]:
    """(num_decodes, max_query_len, max_seq_len, is_fresh) as AttentionMetadata defines them."""
    longer = np.flatnonzero(counts != 1)
    num_decodes = int(longer[0]) if len(longer) else len(counts)
    is_fresh = not starts[num_decodes:].any()
    return num_decodes, int(counts.max()), int((starts + counts).max()), is_fresh


def _pad(array: IntArray, first: int, values: int | IntArray) -> None:
    array[first:] = values
