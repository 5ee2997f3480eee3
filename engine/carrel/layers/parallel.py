"""Tensor parallelism: several processes, each with a slice of every large matrix, that compute one model together.

::

    qkv, gate and up     each rank has some of the heads, some of the inner columns     no talk
    output, down         each rank has the rows that fit them: a partial sum            all_reduce
    embedding, head      each rank has some of the vocabulary                           all_reduce, all_gather

Knows ranks, shares and what they say to each other (Megatron-LM, arXiv 1909.08053). A group is handed to a model and
stands nowhere else; a model that is alone has the group ``Alone``, which talks to nobody. Knows no processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from carrel.layers.embedding import Embedding

SplitKind = Literal["rows", "columns", "vocabulary", "first"]


class ParallelGroup(Protocol):
    """The ranks that compute one model. Every rank makes the same calls in the same order, with the same shapes."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in place in contiguous ``x``."""
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """[n, …] of each rank → [size * n, …], in the order of the ranks."""
        ...

    def broadcast(self, x: Tensor) -> Tensor:
        """What rank 0 has in contiguous ``x``, in place."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """One process has the whole model."""

    rank: int = 0
    size: int = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, slots=True)
class Split:
    """Which slice of a tensor of the checkpoint a rank has.

    "rows" and "columns": an equal share of dimension 0 or 1. "vocabulary": rows, where the last rank's share may be
    short and is filled up with zeros. "first": rank 0 has all of it and the others zeros, as for a bias behind a sum.
    """

    kind: SplitKind
    whole: int | None = None  # of "vocabulary": rows of the whole tensor


def share(total: int, size: int) -> int:
    """Rows of each rank, when the last may be filled up.

    >>> share(641, 2)
    321
    """
    return -(-total // size)


class VocabularyEmbedding(Embedding):
    """Rows of a table whose ids are shared out: rank r has ids [r * n, (r + 1) * n) of ``num_embeddings``."""

    def __init__(self, num_embeddings: int, size: int, group: ParallelGroup) -> None:
        super().__init__(share(num_embeddings, group.size), size)
        self.group = group

    def forward(self, ids: Tensor) -> Tensor:
        if self.group.size == 1:
            return super().forward(ids)
        num_rows = self.num_embeddings
        rows = ids - self.group.rank * num_rows
        theirs = (rows < 0) | (rows >= num_rows)  # [num_tokens]
        found = super().forward(rows.masked_fill(theirs, 0))
        return self.group.all_reduce(found.masked_fill_(theirs.unsqueeze(1), 0.0))


def gather_logits(local: Tensor, group: ParallelGroup, vocab_size: int) -> Tensor:
    """[n, share of the vocabulary] of each rank → [n, vocab_size] on all, contiguous."""
    if group.size == 1:
        return local
    n, width = local.shape
    gathered = group.all_gather(local).view(group.size, n, width)
    out = torch.empty(n, group.size, width, dtype=local.dtype, device=local.device)
    out.copy_(gathered.transpose(0, 1))
    return out.view(n, -1)[:, :vocab_size].contiguous()
