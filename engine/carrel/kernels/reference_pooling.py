"""Plain-torch twins of the pooling kernels: one vector for each packed sequence, in fp32. Formulas only."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from carrel.kernels.pooling_modes import PoolingMode


def pool_tokens(hidden: Tensor, cu_seqlens: Tensor, mode: PoolingMode) -> Tensor:
    """[num_tokens, size] → fp32 [num_seqs, size]; rows [cu_seqlens[i], cu_seqlens[i + 1]) are sequence i.

    The modes are those of sentence-transformers' Pooling: the first token, the last one, the maximum, the mean, the sum
    over sqrt(n), and the mean with weights 1, 2, … n.
    """
    if mode == "cls":
        return hidden[cu_seqlens[:-1]].to(torch.float32)
    if mode == "lasttoken":
        return hidden[cu_seqlens[1:] - 1].to(torch.float32)
    bounds = cu_seqlens.tolist()
    pieces = [hidden[start:end].to(torch.float32) for start, end in pairwise(bounds)]
    return torch.stack([_reduce(piece, mode) for piece in pieces])


def l2_normalize(vectors: Tensor) -> Tensor:
    """v / |v| for each row of fp32 [n, size]; a row of zeros stays one."""
    return F.normalize(vectors, dim=-1)


def _reduce(tokens: Tensor, mode: PoolingMode) -> Tensor:
    """fp32 [n, size] → [size]"""
    n = tokens.shape[0]
    if mode == "max":
        return tokens.amax(dim=0)
    if mode == "mean":
        return tokens.sum(dim=0) / n
    if mode == "mean_sqrt_len_tokens":
        return tokens.sum(dim=0) / math.sqrt(n)
    assert mode == "weightedmean", "the config refuses other modes"
    weights = torch.arange(1, n + 1, dtype=torch.float32, device=tokens.device)
    return torch.mv(tokens.T, weights) / weights.sum()
