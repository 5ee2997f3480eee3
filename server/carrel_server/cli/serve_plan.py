"""``carrel serve``'s flags as the objects that the engine and the server take. Loads no model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from carrel.config import EngineConfig, ModelSpec, Task
from carrel.errors import InvalidParamsError

from carrel_server.cli.parameters import DTYPES, TASKS
from carrel_server.keys import all_keys, is_open_to_others
from carrel_server.settings import ANY, ServerSettings

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
    "download_dir",
    "seed",
)
SERVER_OPTIONS = (
    "host",
    "port",
    "uds",
    "shutdown_timeout",
    "api_key_file",
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_ca_certs",
    "ssl_cert_reqs",
)
LIMITS = (
    "max_body_bytes",
    "max_inputs",
    "max_documents",
    "max_choices",
    "max_stop_strings",
    "max_concurrent_requests",
)


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """Everything that ``run_server`` needs."""

    models: tuple[ModelSpec, ...]
    engine: EngineConfig
    settings: ServerSettings
    host: str
    port: int
    uds: str | None = None  # a unix socket in place of host and port
    log_level: str = "warning"
    shutdown_timeout: int = 10  # seconds
    fixed_keys: tuple[str, ...] = ()  # of the settings' keys those that no file gave
    api_key_file: Path | None = None
    auto_tool_choice: bool = False  # asked for by name: worth a word where a model cannot have it
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = 0


def plan_serve(options: Mapping[str, Any]) -> ServePlan:
    """
    Raises:
        click.UsageError: flags that do not fit each other.
        carrel.errors.CarrelError: a value out of range, or a model that is not there.
    """
    keys = tuple(options["api_key"]) or _keys_of_environment()
    if options["ssl_keyfile"] and not options["ssl_certfile"]:
        raise click.UsageError("--ssl-keyfile is of no use without --ssl-certfile.")
    return ServePlan(
        models=plan_models(options),
        engine=EngineConfig(dtype=DTYPES[options["dtype"]], **_engine_options(options)),
        settings=plan_settings(options, all_keys(keys, _key_file(options["api_key_file"]))),
        fixed_keys=keys,
        log_level=options["uvicorn_log_level"],
        auto_tool_choice=options["enable_auto_tool_choice"],
        **{name: options[name] for name in SERVER_OPTIONS},
    )


def _engine_options(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: options[name] for name in ENGINE_OPTIONS}
    return found | {"load_format": "dummy" if options["load_format"] == "dummy" else "auto"}


def plan_settings(options: Mapping[str, Any], keys: tuple[str, ...]) -> ServerSettings:
    return ServerSettings(
        api_keys=keys,
        embedding_token_ids=options["embedding_token_ids"],
        generation_config=options["generation_config"],
        access_log="none" if options["disable_uvicorn_access_log"] else options["access_log_format"],
        silent_paths=tuple(path for path in options["disable_access_log_for_endpoints"].split(",") if path),
        root_path=_prefix(options["root_path"]),
        request_timeout=options["request_timeout"] or None,
        body_timeout=options["body_timeout"],
        allowed_origins=_strings("--allowed-origins", options["allowed_origins"]),
        allowed_methods=_strings("--allowed-methods", options["allowed_methods"]) or ANY,
        allowed_headers=_strings("--allowed-headers", options["allowed_headers"]) or ANY,
        allow_credentials=options["allow_credentials"],
        docs=not options["disable_fastapi_docs"],
        chat_template_kwargs=options["default_chat_template_kwargs"] or {},
        trust_request_chat_template=options["trust_request_chat_template"],
        **{name: options[name] for name in LIMITS},
    )


def _keys_of_environment() -> tuple[str, ...]:
    """VLLM_API_KEY is one key, as vLLM reads it; CARREL_API_KEY may be several, with commas between."""
    return tuple(key for name in KEY_VARIABLES if name in os.environ for key in _keys_in(name, os.environ[name]))


def _keys_in(name: str, value: str) -> list[str]:
    """A variable without a key is an error: who has set it meant to ask for one."""
    texts = value.split(",") if name == "CARREL_API_KEY" else [value]
    keys = [key for text in texts if (key := text.strip())]
    if not keys:
        message = f"The API key in {name} is empty. Give it a value, or unset the variable to ask for none."
        raise InvalidParamsError(message, param=name)
    return keys


def _key_file(path: Path | None) -> Path | None:
    if path is not None and path.is_file() and is_open_to_others(path):
        click.echo(
            f"Warning: every user of this machine may read {path}; chmod 600 keeps the keys in it secret.", err=True
        )
    return path


def _prefix(root_path: str) -> str:
    """
    >>> _prefix("llm/"), _prefix("/"), _prefix("/a/b")
    ('/llm', '', '/a/b')
    """
    stripped = root_path.strip("/")
    return f"/{stripped}" if stripped else ""


def _strings(flag: str, values: Sequence[str]) -> tuple[str, ...]:
    """vLLM takes a JSON list; plain values work too."""
    found: list[str] = []
    for value in values:
        found += _string_list(flag, value) if value.startswith("[") else [value]
    return tuple(found)


def _string_list(flag: str, value: str) -> list[str]:
    try:
        strings = json.loads(value)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{flag} {value!r} is not a JSON list: {error}.") from None
    if not all(isinstance(text, str) for text in strings):
        raise click.UsageError(f"{flag} {value!r} must hold strings.")
    return list(strings)


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
    return _name_chat_model(_of_revision(specs, options["revision"]), _chat_options(options), options["download_dir"])


def _of_revision(specs: tuple[ModelSpec, ...], revision: str | None) -> tuple[ModelSpec, ...]:
    if revision is None:
        return specs
    if len(specs) != 1:
        raise click.UsageError("--revision is one model's; give each its own, e.g. --chat-model NAME,revision=v2.")
    return (replace(specs[0], revision=revision),)


def _chat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the one chat model that were given for all."""
    given = {
        "served_model_name": tuple(options["served_model_name"]),
        "chat_template": options["chat_template"],
        "tool_call_parser": options["tool_call_parser"],
        "reasoning_parser": options["reasoning_parser"],
    }
    return {name: value for name, value in given.items() if value not in (None, ())}


def _task(options: Mapping[str, Any]) -> Task | None:
    task = TASKS[options["task"]]
    runner = options["runner"]
    if runner == "generate" and task not in (None, "chat"):
        raise click.UsageError(f"--runner generate and --task {options['task']} contradict each other.")
    if runner == "pooling" and task == "chat":
        raise click.UsageError(f"--runner pooling and --task {options['task']} contradict each other.")
    if runner == "pooling" and task is None and len(options["models"]) + len(options["named_models"]) == 1:
        name = (*options["models"], *options["named_models"])[0]
        detected = detect_task(ModelSpec(name=name, revision=options["revision"]), options["download_dir"])
        return "embedding" if detected == "chat" else detected
    return "chat" if runner == "generate" else task


def _name_chat_model(
    specs: tuple[ModelSpec, ...], given: dict[str, Any], download_dir: str | None
) -> tuple[ModelSpec, ...]:
    """--served-model-name, --chat-template and the parsers mean the chat model, or the only one."""
    if not given:
        return specs
    chats = specs if len(specs) == 1 else tuple(spec for spec in specs if detect_task(spec, download_dir) == "chat")
    if len(chats) != 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in given)
        example = f"--chat-model NAME,{next(iter(given))}=…"
        raise click.UsageError(f"{flags} need one chat model; give each model its own instead, e.g. {example}.")
    chat = chats[0]
    return tuple(replace(chat, **given) if spec is chat else spec for spec in specs)


def detect_task(spec: ModelSpec, download_dir: str | None = None) -> Task:
    """The task as the model's files say it, without loading weights."""
    if spec.task is not None:
        return spec.task
    from carrel.hub import resolve
    from carrel.models.config import ModelConfig

    return ModelConfig.from_folder(resolve(spec.name, revision=spec.revision, download_dir=download_dir)).task
