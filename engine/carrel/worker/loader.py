"""From a model folder to a runner with its weights on the device."""

from __future__ import annotations

from pathlib import Path

import torch

from carrel.layers.attention import attention_backend
from carrel.models.config import ModelConfig
from carrel.models.decoder import Decoder
from carrel.models.encoder import BertHead, Encoder, RobertaHead
from carrel.models.registry import family_of
from carrel.models.weights import Checkpoint, load_weights
from carrel.worker.dtype import resolve_dtype
from carrel.worker.model_runner import ChatRunner, EmbeddingRunner, ModelRunner, RerankRunner


def load_runner(folder: Path, config: ModelConfig, *, device: str, dtype: str, block_size: int) -> ModelRunner:
    """Read the weights in ``folder`` and make the runner for the task of ``config``.

    ``device`` is "cpu" or "cuda…" (never "auto"), ``dtype`` "auto" or a dtype by name, ``block_size`` tokens in one KV
    block. A chat runner still needs ``allocate_kv_cache``::

        config = ModelConfig.from_folder(folder)
        runner = load_runner(folder, config, device="cpu", dtype="auto", block_size=16)

    Raises:
        WeightsError: the weights are missing, damaged, pickled, or do not fit config.json.
        UnsupportedModelError: the dtype is not supported.
    """
    family = family_of(config.architecture)
    checkpoint = Checkpoint(folder, family.prefix)
    torch_dtype = resolve_dtype(dtype, config.dtype or checkpoint.dtype(), device)
    with torch.device("meta"):  # shapes only; loading puts the real tensors in
        model = (Decoder if config.is_decoder else Encoder)(config, attention_backend(device))
    sources, ignored = model.weight_sources(), model.ignored_weights
    load_weights(model, checkpoint, sources, device=device, dtype=torch_dtype, ignored=ignored)
    if config.task == "chat":
        assert isinstance(model, Decoder), "only decoders chat"
        return ChatRunner(config, model, device=device, dtype=torch_dtype, block_size=block_size)
    if config.task == "embedding":
        return EmbeddingRunner(config, model, device=device, dtype=torch_dtype, block_size=block_size)
    assert isinstance(model, Encoder), "the config refuses decoders with a classification head"
    head = _load_head(config, checkpoint, device)
    return RerankRunner(config, model, head, device=device, dtype=torch_dtype, block_size=block_size)


def _load_head(config: ModelConfig, checkpoint: Checkpoint, device: str) -> BertHead | RobertaHead:
    """The classification head, in fp32: scores that differ in the fourth digit must not become equal."""
    with torch.device("meta"):
        head = BertHead(config) if config.architecture.startswith("Bert") else RobertaHead(config)
    rest = ("",)  # everything else is the encoder's
    load_weights(head, checkpoint, head.weight_sources(), device=device, dtype=torch.float32, ignored=rest)
    return head
