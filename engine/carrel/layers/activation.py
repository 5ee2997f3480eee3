"""Activation functions by the name that config.json gives them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]
ACTIVATION_NAMES = ("gelu", "gelu_new", "gelu_pytorch_tanh", "identity", "relu", "silu", "tanh")


def activation(name: str) -> Activation:
    """The function called ``name``, one of ``ACTIVATION_NAMES``."""
    tanh_gelu = partial(F.gelu, approximate="tanh")
    table: dict[str, Activation] = {
        "gelu": F.gelu,
        "gelu_new": tanh_gelu,
        "gelu_pytorch_tanh": tanh_gelu,
        "identity": lambda x: x,
        "relu": F.relu,
        "silu": F.silu,
        "tanh": torch.tanh,
    }
    assert name in table, "the config refuses other names"
    return table[name]
