"""What ``carrel doctor`` says of models: found, supported, sizes, abilities, and whether they fit. Loads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from carrel.config import EngineConfig, ModelSpec, Quantization
from carrel.errors import CarrelError, InvalidParamsError
from carrel.preview import ModelPreview, hosted_as, plan_together, preview_model, unique
from carrel.worker.memory import MemoryPlan, format_bytes

from carrel_server.cli.findings import Section

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel
    from carrel.worker.memory import CachePlan

ORIGINS = {"bundled": "bundled with carrel", "folder": "a folder", "cache": "in Hugging Face's cache"}
ALTERNATIVES: tuple[Quantization, ...] = ("int8", "int4")
TOGETHER = "Together"


def examine_models(specs: Sequence[ModelSpec], config: EngineConfig) -> list[Section]:
    """A section for each model, and one for all of them in one engine; ``config.device`` is resolved."""
    sections, previews = [], []
    for spec in specs:
        section = Section(spec.name)
        sections.append(section)
        preview = _preview(section, spec, config)
        if preview is not None:
            previews.append((section, preview))
    if previews:
        sections.append(_together(previews, config))
    return sections


def _preview(section: Section, spec: ModelSpec, config: EngineConfig) -> ModelPreview | None:
    try:
        preview = preview_model(spec, config)
    except CarrelError as error:
        section.problem("cannot serve", str(error))
        return None
    if preview is None:
        _absent(section)
        return None
    _files(section, preview)
    return preview


def _absent(section: Section) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        section.problem("found", "not on this machine, and HF_HUB_OFFLINE forbids to download it.", False)
    else:
        section.warn("found", "not on this machine; carrel serve would download it from Hugging Face first.", False)


def _files(section: Section, preview: ModelPreview) -> None:
    """What the folder says."""
    model, facts, runner = preview.loaded.config, preview.facts, preview.runner
    assert preview.copy.folder is not None, "it is on this machine"
    section.fact("found", f"{ORIGINS[preview.copy.origin]}: {preview.copy.folder}", str(preview.copy.folder))
    section.fact("architecture", f"{model.architecture} ({model.model_type}), {model.num_layers} layers")
    section.fact("task", preview.loaded.source.task)
    dtypes = ", ".join(facts.dtypes)
    text = f"{facts.num_parameters:,} parameters in {dtypes}, {format_bytes(facts.num_bytes)} on disk"
    section.fact(
        "weights", text, {"parameters": facts.num_parameters, "bytes": facts.num_bytes, "dtypes": facts.dtypes}
    )
    dtype = str(runner.dtype).removeprefix("torch.")
    section.fact("computes in", f"{dtype}, {format_bytes(runner.weights_bytes)} of weights in memory", dtype)
    if preview.kv_bytes_per_token:
        text = f"{preview.kv_bytes_per_token:,} bytes of KV cache for a token"
        section.fact("kv", text, preview.kv_bytes_per_token)


def _together(previews: Sequence[tuple[Section, ModelPreview]], config: EngineConfig) -> Section:
    """All of them in one engine."""
    section, models = Section(TOGETHER), [preview for _, preview in previews]
    try:
        plan = plan_together(models, config)
    except CarrelError as error:
        section.problem("does not fit", str(error))
        plan = MemoryPlan(config.device, 0, 0, 0, {})  # shares nothing out: abilities need no memory
    else:
        _memory(section, models, plan)
    for own, preview in previews:
        _abilities(own, preview, plan)
        _alternatives(own, preview, config)
    return section


def _memory(section: Section, models: Sequence[ModelPreview], plan: MemoryPlan) -> None:
    value = {"weights": plan.weights_bytes, "activations": plan.activation_bytes, "kv": plan.kv_bytes}
    section.fact("memory", plan.describe().splitlines()[0].partition(": ")[2], {**value, "total": plan.total_bytes})
    for item in unique(models):
        cache = plan.caches.get(item.name)
        if cache is not None:
            _cache(section, item, cache)


def _abilities(section: Section, preview: ModelPreview, plan: MemoryPlan) -> None:
    """What callers can ask of the model."""
    hosted = hosted_as(preview, plan)
    own = preview.loaded.config.max_model_len
    less = "" if hosted.max_model_len == own else f" of the {own} that the model has"
    section.fact("context", f"{hosted.max_model_len} tokens{less}", hosted.max_model_len)
    if hosted.task == "chat":
        _chat(section, hosted)
    elif preview.loaded.config.pooling is not None:
        _pooling(section, preview, hosted)
    if hosted.task == "rerank":
        spans = ", and says where the answer stands" if hosted.has_spans else ""
        section.fact("reranker", f"{hosted.reranker_kind}, scores 0..1{spans}", hosted.reranker_kind)


def _chat(section: Section, hosted: HostedModel) -> None:
    if hosted.chat_template is None:
        text = "none: it completes, and chat is off until --chat-template FILE gives one"
        section.warn("template", text, False)
        return
    section.fact("template", "there", True)
    tools, thoughts = hosted.tool_call_parser, hosted.reasoning_parser
    unknown = "format of calls not known; name it with --tool-call-parser"
    section.fact("tools", f"calls are read as {tools} writes them" if tools else unknown, tools or False)
    section.fact(
        "reasoning", f"thoughts are read as {thoughts} writes them" if thoughts else "none known", thoughts or False
    )


def _pooling(section: Section, preview: ModelPreview, hosted: HostedModel) -> None:
    pooling = preview.loaded.config.pooling
    assert pooling is not None, "an embedder says how it pools"
    shorter = "may be cut to fewer" if hosted.matryoshka else "of that length only"
    norm = "normalised" if pooling.normalize else "not normalised"
    text = f"{hosted.embedding_dim} dimensions ({shorter}), {' + '.join(pooling.modes)} pooling, {norm}"
    value = {"dim": hosted.embedding_dim, "pooling": pooling.modes, "matryoshka": hosted.matryoshka}
    section.fact("vectors", text, value)
    section.fact("prompts", ", ".join(pooling.prompts) or "none", list(pooling.prompts))


def _alternatives(section: Section, preview: ModelPreview, config: EngineConfig) -> None:
    """What quantised weights would take."""
    if preview.loaded.config.task != "chat" or config.quantization is not None:
        return
    sizes: dict[str, int] = {}
    for name in (*ALTERNATIVES, "fp8"):
        try:
            other = preview_model(preview.spec, replace(config, quantization=name))
        except InvalidParamsError:  # this device does not multiply fp8
            continue
        assert other is not None, "it is on this machine"
        sizes[name] = other.runner.weights_bytes
    text = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
    section.fact("quantised", f"{text} of weights (--quantization)", sizes)


def _cache(section: Section, preview: ModelPreview, cache: CachePlan) -> None:
    whole = cache.num_tokens // cache.max_model_len
    text = (
        f"{preview.name}: room for {cache.num_tokens:,} tokens in {format_bytes(cache.num_bytes)}: {whole} requests of "
        f"{cache.max_model_len} tokens, or {cache.num_tokens // 1024} of 1024"
    )
    section.fact("kv cache", text, {"tokens": cache.num_tokens, "bytes": cache.num_bytes, "full_requests": whole})
