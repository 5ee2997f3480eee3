"""Random weights in place of a checkpoint (``load_format="dummy"``, as vLLM names it): speed without a model.

Knows shapes and one seed. The text is nonsense, the arithmetic is not: norms are near one, and a matrix of n inputs has
the standard deviation 1 / sqrt(n), so that activations and logits stay at the scale of one and the layers, not the
embedding, decide the next token. The same seed, device and dtype give the same model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrel.layers.weight_formats import set_parameter

VECTOR_STD = 0.02  # of biases, and of norms around one


def fill_randomly(module: nn.Module, *, device: str, dtype: torch.dtype, seed: int = 0) -> None:
    """Give every parameter of ``module`` (on the meta device) a random tensor, made on ``device`` itself.

    >>> with torch.device("meta"):
    ...     linear = nn.Linear(3, 2)
    >>> fill_randomly(linear, device="cpu", dtype=torch.bfloat16)
    >>> linear.weight.dtype, bool(linear.weight.isfinite().all())
    (torch.bfloat16, True)
    """
    generator = torch.Generator(device).manual_seed(seed)
    for owner in list(module.modules()):  # packing a weight adds a module
        for name, parameter in list(owner.named_parameters(recurse=False)):
            centre = 1.0 if "norm" in type(owner).__name__.lower() and name == "weight" else 0.0
            weight = _draw(parameter.shape, centre, generator, device, dtype)
            set_parameter(owner, name, weight)


def _draw(shape: torch.Size, centre: float, generator: torch.Generator, device: str, dtype: torch.dtype) -> Tensor:
    weight = torch.empty(shape, dtype=dtype, device=device)
    std = shape[-1] ** -0.5 if len(shape) == 2 else VECTOR_STD
    return weight.normal_(centre, std, generator=generator)
