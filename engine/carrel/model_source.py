"""From a :class:`ModelSpec` to what will be loaded: folder, task, options. Reads configurations, loads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carrel import hub
from carrel.config import EngineConfig, ModelSpec, Task
from carrel.errors import InvalidParamsError, UnsupportedModelError
from carrel.models.config import ModelConfig
from carrel.parsers.registry import resolve_reasoning_parser, resolve_tool_parser


@dataclass(frozen=True)
class ModelSource:
    """One model to load. Equal sources are the same model, whatever name they were asked by."""

    name: str
    names: tuple[str, ...]
    short_name: str | None  # of ``names`` the last part of the path, which clients use: kept only if it is unique
    task: Task
    folder: Path
    dtype: str
    max_model_len: int | None  # as asked for
    chat_template: str | None
    tool_call_parser: str | None = None  # as asked for
    reasoning_parser: str | None = None

    @property
    def weights_key(self) -> tuple[Path, str]:
        """Sources with the same key share one runner."""
        return self.folder, self.dtype


def find_sources(specs: Sequence[ModelSpec | ModelSource], config: EngineConfig) -> list[ModelSource]:
    """Find every model, before any is loaded, so that a wrong name costs no time. Sources are found already.

    Raises:
        ModelNotFoundError, UnsupportedModelError, WeightsError: as of :func:`hub.resolve` and the configuration.
        InvalidParamsError: two models of one name.
    """
    if not specs:
        raise InvalidParamsError("Name at least one model to host.", param="models")
    if config.trust_remote_code:
        raise UnsupportedModelError("trust_remote_code is not supported: carrel runs no code out of model folders.")
    sources = [spec if isinstance(spec, ModelSource) else _find(spec, config) for spec in specs]
    return _named(sources)


def _named(sources: list[ModelSource]) -> list[ModelSource]:
    """Without the short names that would mean several models.

    Raises:
        InvalidParamsError: names that the caller gave mean several models.
    """
    count = Counter(name for source in sources for name in source.names)
    kept = [
        replace(source, names=tuple(name for name in source.names if count[name] == 1 or name != source.short_name))
        for source in sources
    ]
    count = Counter(name for source in kept for name in source.names)
    name, number = count.most_common(1)[0]
    if number > 1:
        raise InvalidParamsError(
            f"Several models are named {name!r}. Give each its own served_model_name; an embedding model need not be "
            "named as a reranker too, it ranks by the cosine anyway.",
            param="served_model_name",
        )
    return kept


def _find(spec: ModelSpec, config: EngineConfig) -> ModelSource:
    resolve_tool_parser(spec.tool_call_parser, None)  # an unknown name is told before anything is loaded
    resolve_reasoning_parser(spec.reasoning_parser, None)
    folder = hub.resolve(spec.name, revision=spec.revision, download_dir=config.download_dir)
    short = folder.name if Path(spec.name).expanduser().is_dir() else spec.name.rsplit("/", 1)[-1]
    return ModelSource(
        name=spec.name,
        names=spec.served_model_name or tuple(dict.fromkeys((spec.name, short))),
        short_name=None if spec.served_model_name or short == spec.name else short,
        task=spec.task or hub.starter_task(spec.name) or ModelConfig.from_folder(folder).task,
        folder=folder,
        dtype=spec.dtype or config.dtype,
        max_model_len=spec.max_model_len or config.max_model_len,
        chat_template=spec.chat_template,
        tool_call_parser=spec.tool_call_parser,
        reasoning_parser=spec.reasoning_parser,
    )


def check_task(source: ModelSource, detected: Task) -> None:
    """Raise unless a model whose files say ``detected`` can do what is asked of it."""
    if source.task not in (detected, "rerank" if detected == "embedding" else detected):
        raise UnsupportedModelError(
            f"{source.name} is a {detected} model by its files; using it for {source.task} is not supported. "
            f"Give a {source.task} model instead."
        )


def context_length(source: ModelSource, config: ModelConfig) -> int:
    """Tokens of the context: what was asked for, at most the model's own.

    Raises:
        InvalidParamsError: a chat model was asked for more than it has.
    """
    own, asked = config.max_model_len, source.max_model_len
    if asked is None or (config.task != "chat" and asked > own):  # an engine-wide limit is meant for the chat model
        return own
    if asked > own:
        raise InvalidParamsError(
            f"max_model_len={asked} is more than the {own} tokens that {source.name} was made for.",
            param="max_model_len",
        )
    return asked
