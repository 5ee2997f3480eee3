"""A runner without weights: shapes and dtypes as loading would make them, on no device. Knows sizes; computes nothing.

The files' headers are read and the tensors' names compared with config.json, as loading does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from carrel.config import Quantization
from carrel.layers.ops import ops_for
from carrel.layers.quantized_linear import check_quantization, prepare_quantization
from carrel.models.config import ModelConfig
from carrel.models.decoder import Decoder
from carrel.models.encoder import Encoder
from carrel.models.weights import Sources, assign, check_names
from carrel.worker.loader import open_checkpoint, rerank_heads
from carrel.worker.model_runner import ChatRunner, EmbeddingRunner, ModelRunner, RerankRunner


def outline_runner(
    folder: Path,
    config: ModelConfig,
    *,
    device: str,
    dtype: str,
    block_size: int,
    quantization: Quantization | None = None,
) -> ModelRunner:
    """What :func:`carrel.worker.loader.load_runner` would make, to be asked for its sizes alone.

    Raises:
        WeightsError: the weights are missing, pickled, or not those of config.json.
        UnsupportedModelError, InvalidParamsError: the dtype, or the quantisation, cannot be had.
    """
    checkpoint, torch_dtype = open_checkpoint(folder, config, device, dtype, "auto")
    assert checkpoint is not None, "not a dummy"
    with torch.device("meta"):
        model = (Decoder if config.is_decoder else Encoder)(config, ops_for(device))
    if quantization is not None and config.task == "chat":
        assert isinstance(model, Decoder), "chat models are decoders"
        check_quantization(quantization, device)
        prepare_quantization(model.layers, model.lm_head or model.embed_tokens, quantization, model.ops)
    check_names(
        checkpoint, {name for names in model.weight_sources().values() for name in names}, model.ignored_weights
    )
    _shape(model, torch_dtype)
    if config.task == "chat":
        assert isinstance(model, Decoder), "chat models are decoders"
        return ChatRunner(config, model, device=device, dtype=torch_dtype, block_size=block_size)
    if config.task == "embedding":
        return EmbeddingRunner(config, model, device=device, dtype=torch_dtype, block_size=block_size)
    assert isinstance(model, Encoder), "the config refuses decoders with a classification head"
    heads = rerank_heads(config)
    for head in heads:
        if head is not None:
            check_names(checkpoint, _names(head.weight_sources()), ignored=("",))
    return RerankRunner(config, model, *heads, device=device, dtype=torch_dtype, block_size=block_size)


def _names(sources: Sources) -> set[str]:
    return {name for names in sources.values() for name in names}


def _shape(model: nn.Module, dtype: torch.dtype) -> None:
    """Every parameter in its dtype, and packed if it has a format: still on no device."""
    for name, parameter in list(model.named_parameters()):
        assign(model, name, torch.empty(parameter.shape, dtype=dtype, device="meta"))
