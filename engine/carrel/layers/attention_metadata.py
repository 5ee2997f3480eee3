"""What kernels read about a packed batch: tensors on the device, and bounds that the host knows.

::

    rows           | decode A | decode B | chunk of C ........ | whole prompt D ......... |
    cu_seqlens_q   0          1          2                     9                         21
    seq_lens            40         7              33                        12            tokens after this step

A CUDA graph replays with other contents of the same tensors, so kernels take every length from the tensors, and grids
from the bounds alone. Knows lengths and blocks; knows no heads, dtype or layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from carrel.layers.attention_plan import SequenceSpan


@dataclass(slots=True)
class AttentionMetadata:
    """One packed batch. Sequences of one query row come first.

    A padded row of a captured graph is a sequence with seq_len 0, one query row and slot -1: it sees nothing, stores
    nothing and gives zeros. ``block_tables`` may be wider than any sequence: what lies past its blocks is any number
    in [0, num_blocks), never to be used.
    """

    cu_seqlens_q: Tensor  # [num_seqs + 1] int32, first query row of each sequence, then the number of rows
    seq_lens: Tensor  # [num_seqs] int32, tokens in the sequence after this step
    block_tables: Tensor | None  # [num_seqs, max_blocks] int32; None: nothing is cached, all tokens are in this step
    num_seqs: int
    num_decodes: int  # the first so many sequences have one query row each; the others have any number
    max_query_len: int  # no sequence has more query rows
    max_seq_len: int  # no sequence has more tokens
    is_fresh: bool  # past the decodes every sequence has all its tokens in this step: no cached prefix is read

    @property
    def decodes_only(self) -> bool:
        return self.num_decodes == self.num_seqs


def metadata_of(spans: Sequence[SequenceSpan], *, device: torch.device) -> AttentionMetadata:
    """The slow twin of the runner's persistent buffers: from spans, in their order, to tensors of just this size."""
    num_decodes = 0
    while num_decodes < len(spans) and spans[num_decodes].query_len == 1 and spans[num_decodes].block_table:
        num_decodes += 1
    width = max(len(span.block_table) for span in spans)
    tables = [span.block_table + [0] * (width - len(span.block_table)) for span in spans]
    return AttentionMetadata(
        cu_seqlens_q=_int32([*(span.start for span in spans), spans[-1].start + spans[-1].query_len], device),
        seq_lens=_int32([span.seq_len for span in spans], device),
        block_tables=_int32(tables, device) if width else None,
        num_seqs=len(spans),
        num_decodes=num_decodes,
        max_query_len=max(span.query_len for span in spans),
        max_seq_len=max(span.seq_len for span in spans),
        is_fresh=all(span.query_len == span.seq_len for span in spans[num_decodes:]),
    )


def _int32(values: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)
