"""Random weights in place of a checkpoint (``load_format="dummy"``, as vLLM names it): speed without a model.

Knows shapes and one seed. The text is nonsense, the arithmetic is not: norms are near one, and a matrix of n inputs has
the standard deviation 1 / sqrt(n), so that activations and logits stay at the scale of one and the layers, not the
embedding, decide the next token. The same seed, device and dtype give the same model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from carrel.layers.parallel import Alone, ParallelGroup, Split
from carrel.layers.weight_formats import set_parameter

VECTOR_STD = 0.02  # of biases, and of norms around one


def fill_randomly(
    module: nn.Module,
    *,
    device: str,
    dtype: torch.dtype,
    seed: int = 0,
    splits: Mapping[str, Split] | None = None,
    group: ParallelGroup | None = None,
) -> None:
    """Give every parameter of ``module`` (on the meta device) a random tensor, made on ``device`` itself.

    In a ``group`` of several ranks each draws its own slices of the parameters in ``splits``, and all the same rest.

    >>> with torch.device("meta"):
    ...     linear = nn.Linear(3, 2)
    >>> fill_randomly(linear, device="cpu", dtype=torch.bfloat16)
    >>> linear.weight.dtype, bool(linear.weight.isfinite().all())
    (torch.bfloat16, True)
    """
    splits, group = splits or {}, group or Alone()
    common = torch.Generator(device).manual_seed(seed)
    own = common if group.size == 1 else torch.Generator(device).manual_seed(seed + 1 + group.rank)
    for path, owner in list(module.named_modules()):  # packing a weight adds a module
        for name, parameter in list(owner.named_parameters(recurse=False)):
            split = splits.get(f"{path}.{name}")
            centre = 1.0 if "norm" in type(owner).__name__.lower() and name == "weight" else 0.0
            weight = _draw(parameter.shape, centre, own if split else common, device, dtype)
            if split is not None and split.kind == "first" and group.rank:
                weight.zero_()
            set_parameter(owner, name, weight)


def _draw(shape: torch.Size, centre: float, generator: torch.Generator, device: str, dtype: torch.dtype) -> Tensor:
    weight = torch.empty(shape, dtype=dtype, device=device)
    std = shape[-1] ** -0.5 if len(shape) == 2 else VECTOR_STD
    return weight.normal_(centre, std, generator=generator)
