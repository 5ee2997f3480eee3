"""From a model folder to a runner with its weights on the device."""

from __future__ import annotations

from pathlib import Path

import torch

from carrel.config import LoadFormat, Quantization
from carrel.layers.onednn import prepare_dense
from carrel.layers.ops import ops_for
from carrel.layers.parallel import Alone, ParallelGroup
from carrel.layers.quantized_linear import check_quantization, prepare_quantization
from carrel.models.config import ModelConfig
from carrel.models.decoder import Decoder
from carrel.models.encoder import BertHead, Encoder, RobertaHead, SpanHead
from carrel.models.registry import family_of
from carrel.models.sharding import share_of
from carrel.models.weights import Checkpoint, load_weights
from carrel.worker.cuda_pooling import CudaEmbeddingRunner, CudaRerankRunner
from carrel.worker.cuda_runner import CudaChatRunner
from carrel.worker.dtype import resolve_dtype
from carrel.worker.model_runner import ChatRunner, EmbeddingRunner, ModelRunner, RerankRunner
from carrel.worker.random_weights import fill_randomly


def load_runner(
    folder: Path,
    config: ModelConfig,
    *,
    device: str,
    dtype: str,
    block_size: int,
    load_format: LoadFormat = "auto",
    quantization: Quantization | None = None,
) -> ModelRunner:
    """Read the weights in ``folder`` and make the runner for the task of ``config``.

    ``device`` is "cpu" or "cuda…" (never "auto"), ``dtype`` "auto" or a dtype by name, ``block_size`` tokens in one KV
    block. With ``load_format`` "dummy" the weights are random and only config.json is read. ``quantization`` is for
    chat models; embedders and rerankers keep their weights exact. A chat runner still needs ``allocate_kv_cache``, on a
    GPU all runners need ``prepare``::

        config = ModelConfig.from_folder(folder)
        runner = load_runner(folder, config, device="cpu", dtype="auto", block_size=16)

    Raises:
        WeightsError: the weights are missing, damaged, pickled, or do not fit config.json.
        UnsupportedModelError: the dtype is not supported.
    """
    if config.task == "chat":
        return load_chat_runner(
            folder,
            config,
            device=device,
            dtype=dtype,
            block_size=block_size,
            load_format=load_format,
            quantization=quantization,
        )
    checkpoint, torch_dtype = open_checkpoint(folder, config, device, dtype, load_format)
    with torch.device("meta"):  # shapes only; loading puts the real tensors in
        model = (Decoder if config.is_decoder else Encoder)(config, ops_for(device))
    prepare_dense(model, device, torch_dtype)
    _fill(model, checkpoint, device, torch_dtype, model.ignored_weights)
    on_gpu = device.startswith("cuda")
    if config.task == "embedding":
        embedding = CudaEmbeddingRunner if on_gpu else EmbeddingRunner
        return embedding(config, model, device=device, dtype=torch_dtype, block_size=block_size)
    assert isinstance(model, Encoder), "the config refuses decoders with a classification head"
    heads = rerank_heads(config)
    for head in heads:
        if head is not None:
            _fill(head, checkpoint, device, torch.float32, ignored=("",))  # everything else is the encoder's
    rerank = CudaRerankRunner if on_gpu else RerankRunner
    return rerank(config, model, *heads, device=device, dtype=torch_dtype, block_size=block_size)


def load_chat_runner(
    folder: Path,
    config: ModelConfig,
    *,
    device: str,
    dtype: str,
    block_size: int,
    load_format: LoadFormat = "auto",
    quantization: Quantization | None = None,
    group: ParallelGroup | None = None,
) -> ChatRunner:
    """As :func:`load_runner`, for a chat model. In a ``group`` of several ranks: this rank's share of it.

    Raises:
        InvalidParamsError: the model cannot be shared out among so many ranks, or the device cannot compute so.
    """
    group = group or Alone()
    part = share_of(config, group.size)
    checkpoint, torch_dtype = open_checkpoint(folder, config, device, dtype, load_format)
    with torch.device("meta"):
        model = Decoder(part, ops_for(device), group)
    if quantization is not None:
        check_quantization(quantization, device)
        prepare_quantization(model.layers, model.lm_head or model.embed_tokens, quantization, model.ops)
    else:
        prepare_dense(model, device, torch_dtype)
    _fill(model, checkpoint, device, torch_dtype, model.ignored_weights, group)
    runner = CudaChatRunner if device.startswith("cuda") else ChatRunner
    return runner(part, model, device=device, dtype=torch_dtype, block_size=block_size)


def open_checkpoint(
    folder: Path, config: ModelConfig, device: str, dtype: str, load_format: LoadFormat
) -> tuple[Checkpoint | None, torch.dtype]:
    """The weights' files, None for random weights, and the dtype to compute in."""
    family = family_of(config.architecture)
    checkpoint = None if load_format == "dummy" else Checkpoint(folder, family.prefix)
    stored = config.dtype or (checkpoint.dtype() if checkpoint else "bfloat16")
    return checkpoint, resolve_dtype(dtype, stored, device)


def rerank_heads(config: ModelConfig) -> tuple[BertHead | RobertaHead, SpanHead | None]:
    """What a cross-encoder has beside its encoder, still without weights. They stay in fp32: scores that differ in the
    fourth digit must not become equal."""
    with torch.device("meta"):
        head = BertHead(config) if config.architecture.startswith("Bert") else RobertaHead(config)
        return head, SpanHead(config) if config.has_spans else None


def _fill(
    module: Decoder | Encoder | BertHead | RobertaHead | SpanHead,
    checkpoint: Checkpoint | None,
    device: str,
    dtype: torch.dtype,
    ignored: tuple[str, ...],
    group: ParallelGroup | None = None,
) -> None:
    splits = module.weight_splits() if isinstance(module, Decoder) else {}
    if checkpoint is None:
        fill_randomly(module, device=device, dtype=dtype, splits=splits, group=group)
        return
    sources = module.weight_sources()
    load_weights(module, checkpoint, sources, device=device, dtype=dtype, ignored=ignored, splits=splits, group=group)
