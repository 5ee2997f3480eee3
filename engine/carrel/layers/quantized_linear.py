"""Which weights of a model are quantised at load, and how: ``quantization="int8" | "int4" | "fp8"``.

====  ==============================================  =================================================
      layers' projections                             output head
====  ==============================================  =================================================
int8  int8, a scale for each output                   int8 (with tied weights the embedding too)
int4  int4, a scale for each 128, 64 or 32 inputs     int8, the same
fp8   fp8 weights and activations                     as it is: its rounding errors would reach the logits
====  ==============================================  =================================================

A projection whose shape a format cannot take is kept in int8 (int4) or as it is (fp8). Norms, biases and an embedding
that is no head stay in the model's dtype. Knows decoders' modules by their kind, not by their names.
"""

from __future__ import annotations

import torch
from torch import nn

from carrel.config import Quantization
from carrel.errors import InvalidParamsError
from carrel.layers.embedding import Embedding
from carrel.layers.linear import Linear
from carrel.layers.ops import Ops
from carrel.layers.weight_formats import WeightFormat

FP8_CAPABILITY = (8, 9)  # Ada, Hopper and newer multiply fp8


def check_quantization(quantization: Quantization, device: str) -> None:
    """
    Raises:
        InvalidParamsError: ``device`` cannot compute so.
    """
    if quantization != "fp8":
        return
    if device.startswith("cuda") and torch.cuda.get_device_capability(torch.device(device)) >= FP8_CAPABILITY:
        return
    raise InvalidParamsError(
        f"quantization='fp8' needs a GPU that multiplies fp8 (compute capability 8.9 or newer), which {device} does "
        "not; use 'int8'.",
        param="quantization",
    )


def prepare_quantization(layers: nn.Module, head: Linear | Embedding, quantization: Quantization, ops: Ops) -> None:
    """Give the projections in ``layers`` and the output ``head`` their formats; loading the weights packs them.

    Both are still on the meta device.
    """
    formats: list[WeightFormat] = [ops.weight_format(quantization)]
    if quantization == "int4":
        formats.append(ops.weight_format("int8"))
    for module in layers.modules():
        if isinstance(module, Linear):
            module.format = next((choice for choice in formats if choice.fits(*module.weight.shape)), None)
    if quantization != "fp8":
        head.format = ops.weight_format("int8")
