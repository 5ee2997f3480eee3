"""Vectors of one step on their way from the device to the results of their requests. Knows no pooling and no models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from carrel.errors import StepError
from carrel.outputs import FloatArray
from carrel.step import RequestResult

ReadBack = Callable[[Tensor], Tensor]  # a copy in main memory, complete when the step is done


@dataclass(slots=True)
class PooledStep:
    """One result for each request; those without an error yet get their row from :meth:`finish`."""

    results: list[RequestResult]
    name: str  # of a row, in messages: "vector" or "score"
    copies: list[tuple[list[int], Tensor]] = field(default_factory=list)  # (indices into results, [n, dim] fp32)
    by_token: Tensor | None = None  # [num_tokens, dim] fp32 of the whole step
    tokens: dict[int, slice] = field(default_factory=dict)  # index into results → its rows of ``by_token``, if it wants

    def finish(self) -> list[RequestResult]:
        """Call when the copies are complete. Each result gets an array of its own; a row that is not finite fails."""
        for indices, rows in self.copies:
            vectors = rows.numpy()
            finite = np.isfinite(vectors).all(axis=-1)
            for index, vector, good in zip(indices, vectors, finite.tolist(), strict=True):
                if index in self.tokens:
                    vector = self._with_tokens(vector, index)
                    good = np.isfinite(vector).all()
                if good:
                    self.results[index].pooled = vector.copy()
                else:
                    self.results[index].error = StepError(
                        f"The model gave a {self.name} that is not finite; try dtype float32."
                    )
        return self.results

    def _with_tokens(self, vector: FloatArray, index: int) -> FloatArray:
        """[dim + dim of by_token * tokens]: the vector, then each column of its tokens' rows."""
        assert self.by_token is not None, "somebody wants what the tokens say"
        return np.concatenate((vector, self.by_token.numpy()[self.tokens[index]].T.ravel()))
