"""What the sampling kernels read of each row, and where they write: tensors with fixed addresses, so that a CUDA graph
can replay them while the requests behind the rows change. Knows no Triton and no requests.

::

    packed     [max_rows, 8] int64, one cache line a row; the same memory three times:
    floats     [max_rows, 16]  0 temperature  1 top_p  2 min_p  3 presence  4 frequency  5 repetition
    ints       [max_rows, 16]                                            6 top_k  7 min_length  8 slot
    longs      [max_rows,  8]                                                             5 state  6 position
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

import torch
from torch import Tensor

# columns of ``floats``
TEMPERATURE, TOP_P, MIN_P, PRESENCE, FREQUENCY, REPETITION = range(6)
# columns of ``ints``
TOP_K, MIN_LENGTH, SLOT = 6, 7, 8
# columns of ``longs``
STATE, POSITION = 5, 6

IN_PROMPT, ENDS_TEXT, OCCURS = 1, 2, 4  # token table: two bits, above them how often the token occurs in the output
MAX_OCCURRENCES = 8000  # of one token that are counted; stays inside int16

TILE = 2048  # tokens of one program in the passes over the vocabulary
GROUP = 32  # neighbouring tokens of which the largest logit is kept
SELECTED = 256  # groups in which thresholds are searched before the whole row is


class SamplingMode(Flag):
    """What the rows of a step need; the fewer, the fewer launches. Fixed when a CUDA graph is captured."""

    GREEDY = 0
    DRAW = auto()  # some row has a temperature
    FILTERS = auto()  # some row has top_k, top_p or min_p; only with DRAW
    TABLE = auto()  # some row has penalties or min_tokens


class SamplingRows:
    """Parameters of each row, over ``packed`` [max_rows, 8] int64. Made by :meth:`empty`, every row is greedy.

    Attributes:
        floats: [max_rows, 16] fp32.
        ints: [max_rows, 16] int32; ``top_k`` 0 is off; no end before ``min_length`` tokens; ``slot`` -1: no table row.
        longs: [max_rows, 8] int64; ``state`` is the mixed seed, two's complement; ``position`` is the number of tokens
            before the one to draw, and every step adds one.
    """

    def __init__(self, packed: Tensor) -> None:
        self.packed = packed
        self.floats = packed.view(torch.float32)
        self.ints = packed.view(torch.int32)
        self.longs = packed

    @classmethod
    def empty(cls, max_rows: int, device: torch.device | str) -> SamplingRows:
        rows = cls(torch.zeros(max_rows, 8, dtype=torch.int64, device=device))
        rows.floats[:, TOP_P] = 1.0
        rows.floats[:, REPETITION] = 1.0
        rows.ints[:, SLOT] = -1
        return rows


@dataclass(frozen=True, slots=True)
class SamplingBuffers:
    """Results, and what one launch hands to the next. Written by every step; nothing in it outlives the step."""

    token_ids: Tensor  # [max_rows] int64, always a token: what the next step reads
    results: Tensor  # [max_rows] int64, the same, or -1 where the row has no finite maximum
    thresholds: Tensor  # [max_rows] fp32: tokens whose adjusted logit is below are dropped
    tile_max: Tensor  # [max_rows, num_tiles] fp32; +inf: the tile holds NaN or +inf
    tile_sum: Tensor  # [max_rows, num_tiles] fp32, of exp((x - tile_max) / temperature)
    tile_best: Tensor  # [max_rows, num_tiles] int32, the lowest token id of tile_max
    group_max: Tensor  # [max_rows, num_groups] fp32
    selected: Tensor  # [max_rows, num_selected] int32, groups, ascending
    num_selected: Tensor  # [max_rows] int32; -1: the threshold is already there, -2: search the whole row
    bounds: Tensor  # [max_rows] fp32: every logit at least this large lies in a selected group
    tile: int = TILE
    group: int = GROUP

    @classmethod
    def empty(
        cls,
        max_rows: int,
        vocab_size: int,
        device: torch.device | str,
        *,
        tile: int = TILE,
        group: int = GROUP,
        num_selected: int = SELECTED,
    ) -> SamplingBuffers:
        """Sizes other than the defaults are for tests; all are powers of two."""
        num_tiles = -(-vocab_size // tile)

        def floats(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            token_ids=ints(max_rows, dtype=torch.int64),
            results=ints(max_rows, dtype=torch.int64),
            thresholds=floats(max_rows),
            tile_max=floats(max_rows, num_tiles),
            tile_sum=floats(max_rows, num_tiles),
            tile_best=ints(max_rows, num_tiles),
            group_max=floats(max_rows, num_tiles * (tile // group)),
            selected=ints(max_rows, num_selected),
            num_selected=ints(max_rows),
            bounds=floats(max_rows),
            tile=tile,
            group=group,
        )
