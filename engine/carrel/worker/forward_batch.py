"""One step of one model as tensors: scheduled requests laid end to end, without padding.

::

    rows        | request 0 ......... | request 1 | request 2 ... |
    cu_seqlens  0                     5           6               9

Knows requests and blocks; knows nothing of the model's layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from carrel.layers.attention_plan import AttentionPlan, SequenceSpan
from carrel.step import ScheduledRequest


@dataclass(slots=True)
class ForwardBatch:
    """Inputs of one forward pass. Rows are tokens; ``requests`` are in the order of the rows."""

    requests: list[ScheduledRequest]
    input_ids: Tensor  # [num_tokens] int64
    positions: Tensor  # [num_tokens] int64, from 0 in each sequence
    token_type_ids: Tensor  # [num_tokens] int64
    cu_seqlens_q: list[int]  # [num_requests + 1] first row of each request, then the number of rows
    seq_lens: list[int]  # [num_requests] tokens in the sequence after this step
    logits_indices: Tensor  # [num_samples] last row of each request that samples
    sampled: list[int]  # [num_samples] index into ``requests``
    plan: AttentionPlan

    @property
    def num_tokens(self) -> int:
        return self.cu_seqlens_q[-1]


def build_batch(
    requests: list[ScheduledRequest], *, block_size: int, causal: bool, device: torch.device
) -> ForwardBatch:
    """Lay ``requests`` end to end. Requests without a block table store nothing and see only this step's tokens."""
    assert requests, "the scheduler sends no empty batch"
    input_ids: list[int] = []
    positions: list[int] = []
    token_types: list[int] = []
    slots: list[int] = []
    spans: list[SequenceSpan] = []
    for item in requests:
        request, start = item.request, item.num_computed_tokens
        end = start + item.num_scheduled_tokens
        spans.append(SequenceSpan(len(input_ids), item.num_scheduled_tokens, end, item.block_table))
        input_ids += request.token_ids(start, end)
        positions += range(start, end)
        types = request.token_type_ids
        token_types += [0] * (end - start) if types is None else types[start:end]
        slots += _slots(item.block_table, start, end, block_size)
    assert len(slots) in (0, len(input_ids)), "in one batch all requests have KV blocks or none has"
    sampled = [index for index, item in enumerate(requests) if item.samples]
    cu_seqlens = [span.start for span in spans] + [len(input_ids)]
    plan = AttentionPlan(spans, causal=causal, block_size=block_size, device=device)
    if slots:
        fresh = [span.block_table[span.seq_len // block_size] for span in spans if _begins_last_block(span, block_size)]
        plan.slot_mapping = _ids(slots, device)
        plan.fresh_blocks = _ids(fresh, device) if fresh else None
    return ForwardBatch(
        requests=requests,
        input_ids=_ids(input_ids, device),
        positions=_ids(positions, device),
        token_type_ids=_ids(token_types, device),
        cu_seqlens_q=cu_seqlens,
        seq_lens=[span.seq_len for span in spans],
        logits_indices=_ids([cu_seqlens[index + 1] - 1 for index in sampled], device),
        sampled=sampled,
        plan=plan,
    )


def _slots(block_table: list[int], start: int, end: int, block_size: int) -> list[int]:
    """Where the KV of tokens [start, end) goes: block * block_size + offset in the block."""
    if not block_table:
        return []
    assert len(block_table) * block_size >= end, "the scheduler allocates blocks before it schedules tokens"
    return [block_table[index // block_size] * block_size + index % block_size for index in range(start, end)]


def _begins_last_block(span: SequenceSpan, block_size: int) -> bool:
    """Whether this step writes the first slots of the last block that it touches, and not all of them."""
    first_slot = span.seq_len // block_size * block_size
    return span.seq_len % block_size != 0 and first_slot >= span.seq_len - span.query_len


def _ids(values: list[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)
