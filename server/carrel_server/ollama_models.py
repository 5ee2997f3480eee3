"""Hosted models as Ollama names and describes them. Knows names, digests and details; knows no routes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from carrel.config import Task
from carrel.errors import ModelNotFoundError
from carrel.models.weight_facts import count_parameters

from carrel_server.errors import HttpError
from carrel_server.model_names import INPUT_TYPES
from carrel_server.schemas.ollama import OllamaBody
from carrel_server.schemas.thinking import split_alias

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel

    from carrel_server.service import Service

TAG = ":latest"
FOREVER = "2318-01-01T00:00:00Z"  # what Ollama says of a model that stays
LEVELS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Found:
    """A model, by the name that the request used."""

    name: str
    hosted: HostedModel
    thinks: bool | None = None  # as an alias such as ``qwen3:nothink`` says
    input_type: Literal["query", "document"] | None = None  # as one such as ``bge-m3:query`` says


class Alias(NamedTuple):
    """A way to read a name: which model, and what else it says."""

    name: str
    thinks: bool | None = None
    input_type: Literal["query", "document"] | None = None


def find_model(service: Service, body: OllamaBody, task: Task | None) -> Found:
    """The model that the body names, with or without ``:latest``; without ``task`` of any kind.

    Raises:
        HttpError: 400 without a name, 404 if there is no such model.
        UnsupportedTaskError: it is made for something else.
    """
    asked = body.model or body.name
    if not asked:
        raise HttpError(400, "model is required", param="model")
    untagged = asked.removesuffix(TAG)
    plain, thinks = split_alias(untagged)
    base, _, suffix = untagged.rpartition(":")
    aliases = (
        Alias(asked),
        Alias(untagged),
        Alias(plain, thinks=thinks),
        Alias(base if suffix in INPUT_TYPES else asked, input_type=INPUT_TYPES.get(suffix)),
    )
    for alias in aliases:
        if any(alias.name in hosted.names for hosted in service.host.models.values()):
            hosted = service.any_model(alias.name) if task is None else service.model(alias.name, task)
            return Found(asked, hosted, alias.thinks, alias.input_type)
    raise HttpError(404, f"model '{asked:.200}' not found", param="model") from ModelNotFoundError(asked)


def listed_names(hosted: HostedModel) -> Iterator[str]:
    """Every name, with the tag that Ollama gives to names without one.

    ``a/b`` is listed as ``a/b:latest``.
    """
    for name in hosted.names:
        yield name if ":" in name.rpartition("/")[2] else name + TAG


def entry(name: str, hosted: HostedModel) -> dict[str, Any]:
    """What ``/api/tags`` and ``/api/ps`` say of a model. Reads its files' names and sizes; call it off the loop."""
    return {
        "name": name,
        "model": name,
        "modified_at": modified_at(hosted.folder),
        "size": weights_size(hosted.folder),
        "digest": digest(hosted.folder),
        "details": details(hosted),
    }


def details(hosted: HostedModel) -> dict[str, Any]:
    family = hosted.config.model_type
    count = count_parameters(hosted.folder)
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": human_count(count) if count else "",
        "quantization_level": LEVELS.get(hosted.config.dtype or "", "F32"),
    }


def model_info(hosted: HostedModel) -> dict[str, Any]:
    """The numbers of config.json under the names of GGUF files, with the context that this server gives."""
    config, kind = hosted.config, hosted.config.model_type
    facts: dict[str, Any] = {
        "general.architecture": kind,
        "general.basename": hosted.names[-1],
        "general.parameter_count": count_parameters(hosted.folder),
        f"{kind}.context_length": hosted.max_model_len,
        f"{kind}.embedding_length": hosted.embedding_dim or config.hidden_size,
        f"{kind}.block_count": config.num_layers,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_heads,
        f"{kind}.attention.head_count_kv": config.num_kv_heads,
        f"{kind}.vocab_size": config.vocab_size,
    }
    if config.rope is not None:
        facts[f"{kind}.rope.freq_base"] = config.rope.theta
    return facts


def capabilities(hosted: HostedModel) -> list[str]:
    """Ollama's words; "rerank" is carrel's."""
    if hosted.task != "chat":
        return ["embedding", "rerank"] if hosted.task == "embedding" else ["rerank"]
    optional = {"tools": hosted.tool_call_parser, "thinking": hosted.reasoning_parser}
    return ["completion", *(name for name, parser in optional.items() if parser not in (None, "none"))]


def digest(folder: Path) -> str:
    """Of config.json and the weights' names and sizes: another model has another one, and no gigabytes are read."""
    config = folder / "config.json"
    files = [(path.name, path.stat().st_size) for path in sorted(folder.glob("*.safetensors"))]
    seen = hashlib.sha256(config.read_bytes() if config.is_file() else b"")
    seen.update(json.dumps(files).encode())
    return seen.hexdigest()


def weights_size(folder: Path) -> int:
    """Bytes of the weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def modified_at(folder: Path) -> str:
    times = [path.stat().st_mtime for path in folder.glob("*.safetensors")]
    when = datetime.fromtimestamp(max(times, default=folder.stat().st_mtime), tz=UTC)
    return when.isoformat().replace("+00:00", "Z")


def human_count(count: int) -> str:
    """
    >>> human_count(494_032_768), human_count(7_615_616_512), human_count(65_000)
    ('494.03M', '7.6B', '65.00K')
    """
    if count >= 10**9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.2f}M" if count >= 10**6 else f"{count / 1e3:.2f}K"
