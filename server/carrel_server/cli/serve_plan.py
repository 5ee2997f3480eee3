"""``carrel serve``'s flags as the objects that the engine and the server take. Loads no model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
from carrel.config import EngineConfig, ModelSpec, Task

from carrel_server.cli.parameters import DTYPES, TASKS
from carrel_server.settings import ServerSettings

STARTERS = ("starter/reader", "starter/embedding", "starter/reranker")
KEY_VARIABLES = ("VLLM_API_KEY", "CARREL_API_KEY")
ENGINE_OPTIONS = (
    "device",
    "tensor_parallel_size",
    "quantization",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_queued_requests",
    "block_size",
    "kv_cache_memory_bytes",
    "gpu_memory_utilization",
    "enable_prefix_caching",
    "enforce_eager",
    "overlap_scheduling",
    "seed",
)


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """Everything that ``run_server`` needs."""

    models: tuple[ModelSpec, ...]
    engine: EngineConfig
    settings: ServerSettings
    host: str
    port: int
    log_level: str = "warning"
    access_log: bool = False
    shutdown_timeout: int = 10  # seconds
    root_path: str = ""
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None


def plan_serve(options: Mapping[str, Any]) -> ServePlan:
    """
    Raises:
        click.UsageError: flags that do not fit each other.
        carrel.errors.CarrelError: a value out of range, or a model that is not there.
    """
    return ServePlan(
        models=plan_models(options),
        engine=EngineConfig(dtype=DTYPES[options["dtype"]], **{name: options[name] for name in ENGINE_OPTIONS}),
        settings=plan_settings(options),
        host=options["host"],
        port=options["port"],
        log_level=options["uvicorn_log_level"],
        access_log=not options["disable_uvicorn_access_log"],
        shutdown_timeout=options["shutdown_timeout"],
        root_path=options["root_path"],
        ssl_keyfile=options["ssl_keyfile"],
        ssl_certfile=options["ssl_certfile"],
    )


def plan_settings(options: Mapping[str, Any]) -> ServerSettings:
    if options["embedding_token_ids"] == "cl100k":
        raise click.UsageError("--embedding-token-ids cl100k is not supported by carrel yet; use reject or model.")
    return ServerSettings(
        api_keys=tuple(options["api_key"]) or _keys_of_environment(),
        embedding_token_ids=options["embedding_token_ids"],
        generation_config=options["generation_config"],
        max_body_bytes=options["max_body_bytes"],
        allowed_origins=_origins(options["allowed_origins"]),
        docs=not options["disable_fastapi_docs"],
        chat_template_kwargs=options["default_chat_template_kwargs"] or {},
    )


def _keys_of_environment() -> tuple[str, ...]:
    return tuple(key for name in KEY_VARIABLES if (key := os.environ.get(name)))


def _origins(values: Sequence[str]) -> tuple[str, ...]:
    """vLLM takes a JSON list; plain origins work too."""
    origins: list[str] = []
    for value in values:
        origins += _origin_list(value) if value.startswith("[") else [value]
    return tuple(origins)


def _origin_list(value: str) -> list[str]:
    try:
        origins = json.loads(value)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"--allowed-origins {value!r} is not a JSON list: {error}.") from None
    if not all(isinstance(origin, str) for origin in origins):
        raise click.UsageError(f"--allowed-origins {value!r} must hold strings.")
    return list(origins)


def plan_models(options: Mapping[str, Any]) -> tuple[ModelSpec, ...]:
    """Positional models, then those with options of their own; the starters when there are none."""
    task = _task(options)
    names = (*options["models"], *options["named_models"])
    own = (*options["chat_model"], *options["embedding_model"], *options["reranker_model"])
    if task is not None and len(names) != 1:
        message = "--task and --runner overrule the detection of one MODEL; use --chat-model and its kind for several."
        raise click.UsageError(message)
    specs = (*(ModelSpec(name=name, task=task) for name in names), *own)
    specs = specs or tuple(ModelSpec(name=name) for name in STARTERS)
    return _name_chat_model(specs, tuple(options["served_model_name"]), options["chat_template"])


def _task(options: Mapping[str, Any]) -> Task | None:
    task = TASKS[options["task"]]
    runner = options["runner"]
    if runner == "generate" and task not in (None, "chat"):
        raise click.UsageError(f"--runner generate and --task {options['task']} contradict each other.")
    if runner == "pooling" and task == "chat":
        raise click.UsageError(f"--runner pooling and --task {options['task']} contradict each other.")
    if runner == "pooling" and task is None and len(options["models"]) + len(options["named_models"]) == 1:
        name = (*options["models"], *options["named_models"])[0]
        detected = detect_task(ModelSpec(name=name))
        return "embedding" if detected == "chat" else detected
    return "chat" if runner == "generate" else task


def _name_chat_model(
    specs: tuple[ModelSpec, ...], served: tuple[str, ...], template: str | None
) -> tuple[ModelSpec, ...]:
    """--served-model-name and --chat-template mean the chat model, or the only one."""
    if not served and template is None:
        return specs
    chats = specs if len(specs) == 1 else tuple(spec for spec in specs if detect_task(spec) == "chat")
    if len(chats) != 1:
        message = "--served-model-name and --chat-template need one chat model; give each model its own instead, e.g. "
        raise click.UsageError(message + "--chat-model NAME,served_model_name=chat.")
    chat = chats[0]
    named = replace(
        chat,
        served_model_name=served or chat.served_model_name,
        chat_template=template if template is not None else chat.chat_template,
    )
    return tuple(named if spec is chat else spec for spec in specs)


def detect_task(spec: ModelSpec) -> Task:
    """The task as the model's files say it, without loading weights."""
    if spec.task is not None:
        return spec.task
    from carrel.hub import resolve
    from carrel.models.config import ModelConfig

    return ModelConfig.from_folder(resolve(spec.name)).task
