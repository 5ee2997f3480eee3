"""Names of the ways to make one vector of a sequence, as sentence-transformers' Pooling has them. No torch."""

from __future__ import annotations

from typing import Literal

PoolingMode = Literal["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"]
