"""How one step's attention is cut into dense pieces: built once for each step, used by every layer.

::

    packed rows    | decode A | decode B | chunk of C ........ | whole prompt D ......... |
    work items     └── one item, n=2 ──┘ └ item with a mask  ┘ └ item, causal, no gather ─┘

An item is n sequences with the same number of query rows. Decodes of about the same length share one item, so that a
step is a few large products instead of one for each sequence. Knows lengths and blocks; knows no heads, dtype or layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from carrel.layers.attention_metadata import AttentionMetadata, metadata_of

MAX_PADDING = 1.25  # a decode item gathers at most this many times the blocks its sequences hold


@dataclass(frozen=True, slots=True)
class SequenceSpan:
    """One sequence of a packed batch."""

    start: int  # first packed row
    query_len: int  # rows in this step
    seq_len: int  # tokens in the sequence after this step
    block_table: list[int]  # empty: nothing is cached, all tokens are in this step


@dataclass(frozen=True, slots=True)
class WorkItem:
    """n sequences of ``query_len`` rows each, attended in one call."""

    rows: slice | Tensor  # packed rows, n * query_len of them in order
    num_seqs: int
    query_len: int
    block_tables: Tensor | None  # [n, num_blocks]; None: keys and values are these very rows
    mask: Tensor | None  # bool [n, 1, query_len, kv_len], True where a query sees a key
    is_causal: bool  # the lower triangle, when there is no mask


@dataclass(slots=True)
class AttentionPlan:
    """The spans of a packed batch and, for each sliding window that the model's layers use, its work items.

    Backends of torch read the work items, backends of kernels read ``metadata``. A runner that keeps persistent buffers
    brings the metadata and no spans; otherwise it is made from the spans when it is first asked for.
    """

    spans: list[SequenceSpan]
    causal: bool
    block_size: int
    device: torch.device
    slot_mapping: Tensor | None = None  # [num_tokens] int64, -1: not stored (kernels only); None: nothing is stored
    fresh_blocks: Tensor | None = None  # [n] int64, begun but not filled in this step: cleared before storing
    packed: AttentionMetadata | None = None
    _items: dict[int | None, list[WorkItem]] = field(default_factory=dict)

    @property
    def metadata(self) -> AttentionMetadata:
        """The batch as kernels read it."""
        if self.packed is None:
            self.packed = metadata_of(self.spans, device=self.device)
        return self.packed

    def items(self, window: int | None) -> list[WorkItem]:
        """Work items for layers whose queries see ``window`` tokens back, themselves included (None: all)."""
        if window not in self._items:
            self._items[window] = self._build(window)
        return self._items[window]

    def _build(self, window: int | None) -> list[WorkItem]:
        decodes, fresh, rest = [], [], []
        for span in self.spans:
            if span.query_len == 1 and span.block_table:
                decodes.append(span)
            elif span.query_len == span.seq_len:
                fresh.append(span)
            else:
                rest.append(span)
        items = [self._decode_item(group, window) for group in self._decode_groups(decodes, window)]
        items += [self._fresh_item(group, window) for group in _equal_lengths(fresh)]
        return items + [self._chunk_item(span, window) for span in rest]

    def _decode_groups(self, spans: list[SequenceSpan], window: int | None) -> list[list[SequenceSpan]]:
        """Neighbours by number of blocks, closed before padding to the longest would waste too much."""
        groups: list[list[SequenceSpan]] = []
        held = 0
        for span in sorted(spans, key=lambda span: self._num_blocks(span, window)):
            blocks = self._num_blocks(span, window)
            if groups and (len(groups[-1]) + 1) * blocks <= MAX_PADDING * (held + blocks):
                groups[-1].append(span)
                held += blocks
            else:
                groups.append([span])
                held = blocks
        return groups

    def _first_block(self, span: SequenceSpan, window: int | None) -> int:
        """The first block that any query of the span sees."""
        if window is None:
            return 0
        return max(0, span.seq_len - span.query_len + 1 - window) // self.block_size

    def _num_blocks(self, span: SequenceSpan, window: int | None) -> int:
        return -(-span.seq_len // self.block_size) - self._first_block(span, window)

    def _decode_item(self, spans: list[SequenceSpan], window: int | None) -> WorkItem:
        longest = max(self._num_blocks(span, window) for span in spans)
        tables, first_keys, ends = [], [], []
        for span in spans:
            first = self._first_block(span, window)
            used = span.block_table[first : first + self._num_blocks(span, window)]
            tables.append(used + used[-1:] * (longest - len(used)))  # padding repeats a block of its own; it is masked
            offset = first * self.block_size
            first_keys.append(0 if window is None else max(0, span.seq_len - window) - offset)
            ends.append(span.seq_len - offset)
        keys = torch.arange(longest * self.block_size, device=self.device)
        low = self._column(first_keys)
        high = self._column(ends)
        return WorkItem(
            rows=_rows(spans, self.device),
            num_seqs=len(spans),
            query_len=1,
            block_tables=torch.tensor(tables, dtype=torch.int64, device=self.device),
            mask=((keys >= low) & (keys < high)).view(len(spans), 1, 1, -1),
            is_causal=False,
        )

    def _column(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device).unsqueeze(1)

    def _fresh_item(self, spans: list[SequenceSpan], window: int | None) -> WorkItem:
        """Whole sequences of one length: what they attend to is in this very step."""
        length = spans[0].query_len
        limited = window is not None and length > window
        return WorkItem(
            rows=_rows(spans, self.device),
            num_seqs=len(spans),
            query_len=length,
            block_tables=None,
            mask=self._mask(0, length, 0, length, window) if limited else None,
            is_causal=self.causal and not limited,
        )

    def _chunk_item(self, span: SequenceSpan, window: int | None) -> WorkItem:
        """Rows that follow tokens already in the cache."""
        first = self._first_block(span, window)
        used = span.block_table[first : first + self._num_blocks(span, window)]
        first_key, first_query = first * self.block_size, span.seq_len - span.query_len
        return WorkItem(
            rows=slice(span.start, span.start + span.query_len),
            num_seqs=1,
            query_len=span.query_len,
            block_tables=torch.tensor([used], dtype=torch.int64, device=self.device),
            mask=self._mask(first_query, span.query_len, first_key, len(used) * self.block_size, window),
            is_causal=False,
        )

    def _mask(self, first_query: int, num_queries: int, first_key: int, num_keys: int, window: int | None) -> Tensor:
        """Bool [1, 1, num_queries, num_keys]: causal, and at most ``window`` tokens back."""
        queries = torch.arange(first_query, first_query + num_queries, device=self.device).unsqueeze(1)
        keys = torch.arange(first_key, first_key + num_keys, device=self.device)
        mask = keys <= queries
        if window is not None:
            mask &= keys > queries - window
        return mask.view(1, 1, num_queries, num_keys)


def _equal_lengths(spans: list[SequenceSpan]) -> list[list[SequenceSpan]]:
    groups: dict[int, list[SequenceSpan]] = {}
    for span in spans:
        groups.setdefault(span.query_len, []).append(span)
    return list(groups.values())


def _rows(spans: list[SequenceSpan], device: torch.device) -> slice | Tensor:
    """The packed rows of equally long spans; a slice where they are neighbours, which copies nothing."""
    length = spans[0].query_len
    first = spans[0].start
    if all(span.start == first + i * length for i, span in enumerate(spans)):
        return slice(first, first + len(spans) * length)
    starts = torch.tensor([span.start for span in spans], dtype=torch.int64, device=device)
    return (starts.unsqueeze(1) + torch.arange(length, device=device)).flatten()
