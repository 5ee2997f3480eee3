"""What an engine would do with some models, said before any weights are loaded. Reads configurations and headers.

Every number comes from the functions that :class:`~carrel.host.EngineHost` uses itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from carrel.config import EngineConfig, ModelSpec
from carrel.errors import OutOfMemoryError
from carrel.host import LoadedModel, describe_model, load_tokenizer, resolve_device
from carrel.hosted_model import HostedModel
from carrel.local_copy import LocalCopy, find_local_copy
from carrel.model_source import ModelSource, check_task, context_length, find_sources
from carrel.models.config import ModelConfig
from carrel.models.weight_facts import WeightFacts, read_weight_facts
from carrel.worker.memory import MemoryPlan, check_room, plan_memory
from carrel.worker.model_runner import ModelRunner
from carrel.worker.outline import outline_runner


@dataclass(frozen=True)
class ModelPreview:
    """One model that this machine can serve, if it fits."""

    spec: ModelSpec
    copy: LocalCopy
    loaded: LoadedModel
    runner: ModelRunner  # without weights
    facts: WeightFacts

    @property
    def name(self) -> str:
        return self.loaded.source.names[0]

    @property
    def kv_bytes_per_token(self) -> int:
        return self.runner.kv_bytes_per_block // self.runner.block_size


def preview_model(spec: ModelSpec, config: EngineConfig) -> ModelPreview | None:
    """Everything about one model but whether it fits; None if it would have to be downloaded first.

    >>> preview_model(ModelSpec(name="starter/reader"), EngineConfig(device="cpu")).copy.origin
    'bundled'

    Raises:
        CarrelError: what serving it would raise.
    """
    copy = find_local_copy(spec.name, revision=spec.revision, download_dir=config.download_dir)
    if copy.folder is None:
        return None
    source = _source(spec, copy, config)
    model = ModelConfig.from_folder(copy.folder)
    check_task(source, model.task)
    context_length(source, model)
    runner = outline_runner(
        copy.folder,
        model,
        device=resolve_device(config.device),
        dtype=source.dtype,
        block_size=config.block_size,
        quantization=config.quantization,
    )
    loaded = LoadedModel(source, source.names[0], model, load_tokenizer(copy.folder))
    return ModelPreview(spec, copy, loaded, runner, read_weight_facts(copy.folder))


def _source(spec: ModelSpec, copy: LocalCopy, config: EngineConfig) -> ModelSource:
    """The source as serving would find it; a cached repository under its own name."""
    if copy.origin != "cache":
        return find_sources([spec], config)[0]
    names = spec.served_model_name or tuple(dict.fromkeys((spec.name, spec.name.rsplit("/", 1)[-1])))
    found = find_sources([replace(spec, name=str(copy.folder), revision=None, served_model_name=names)], config)
    return replace(found[0], name=spec.name)


def plan_together(previews: Sequence[ModelPreview], config: EngineConfig) -> MemoryPlan:
    """The memory plan of an engine that hosts all of them; models of the same weights share them.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    device = resolve_device(config.device)
    runners = {item.name: item.runner for item in unique(previews)}
    weights = sum(runner.weights_bytes for runner in runners.values())
    asked = {item.name: item.loaded.source.max_model_len for item in previews if item.runner.kv_bytes_per_block}
    lengths = {name: length for name, length in asked.items() if length is not None and name in runners}
    plan = plan_memory(device, runners, replace(config, device=device), max_model_lens=lengths, unloaded_bytes=weights)
    check_room(plan)
    return plan


def unique(previews: Sequence[ModelPreview]) -> list[ModelPreview]:
    """One for each set of weights."""
    return list({item.loaded.source.weights_key: item for item in reversed(previews)}.values())[::-1]


def hosted_as(preview: ModelPreview, plan: MemoryPlan) -> HostedModel:
    """What callers would see of the model."""
    return describe_model(preview.loaded, plan)


__all__ = ["ModelPreview", "OutOfMemoryError", "hosted_as", "plan_together", "preview_model", "unique"]
