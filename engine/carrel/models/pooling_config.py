"""What sentence-transformers' files say about turning hidden states into one vector. Plain data, no torch.

``modules.json`` lists a chain: Transformer, Pooling, any number of Dense, perhaps Normalize. Other modules are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from carrel.errors import UnsupportedModelError
from carrel.kernels.pooling_modes import PoolingMode

POOLING_MODES: tuple[PoolingMode, ...] = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")

# sentence-transformers' older spelling of the same, one boolean for each mode.
_FLAGS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}

# Families whose converted folders often lack modules.json, by a part of the folder's or the original's name.
_KNOWN_FAMILIES: dict[str, PoolingMode] = {
    "bge-": "cls",
    "snowflake-arctic-embed": "cls",
    "mxbai-embed": "cls",
    "minilm": "mean",
    "e5-": "mean",
    "gte-": "mean",
}


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """One Dense module: a linear layer and an activation on the pooled vector."""

    folder: Path
    in_features: int
    out_features: int
    bias: bool
    activation: Literal["identity", "tanh", "relu", "gelu"]


@dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """From hidden states to a vector."""

    modes: tuple[PoolingMode, ...]  # several are concatenated in this order
    normalize: bool
    dense: tuple[DenseConfig, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)  # name → text put before the input
    default_prompt_name: str | None = None
    max_seq_length: int | None = None

    def output_dim(self, hidden_size: int) -> int:
        return self.dense[-1].out_features if self.dense else hidden_size * len(self.modes)


def read_pooling(folder: Path, raw: dict[str, Any]) -> PoolingConfig:
    """The pooling of the model in ``folder``, whose config.json is ``raw``.

    Raises:
        UnsupportedModelError: a module that carrel does not have, or nothing says how to pool.
    """
    modules_path = folder / "modules.json"
    if not modules_path.is_file():
        return _known_family(folder, raw)
    modules = [(str(module["type"]).rsplit(".", 1)[-1], folder / module["path"]) for module in _load(modules_path)]
    names = [name for name, _ in modules]
    _check_chain(folder, names)
    transformer = modules[0][1]
    meta = _load_object(folder / "config_sentence_transformers.json")
    prompts = meta.get("prompts") or {}
    return PoolingConfig(
        modes=_modes(modules[1][1] / "config.json"),
        normalize="Normalize" in names,
        dense=tuple(_dense(path) for name, path in modules if name == "Dense"),
        prompts={str(name): str(text) for name, text in prompts.items()},
        default_prompt_name=meta.get("default_prompt_name"),
        max_seq_length=_max_seq_length(transformer),
    )


def _check_chain(folder: Path, names: list[str]) -> None:
    known = {"Transformer", "Pooling", "Dense", "Normalize"}
    unknown = [name for name in names if name not in known]
    ordered = names[:2] == ["Transformer", "Pooling"] and "Normalize" not in names[:-1]
    if unknown or not ordered or names.count("Pooling") != 1:
        raise UnsupportedModelError(
            f"{folder / 'modules.json'} has the modules {', '.join(names)}; supported is Transformer, Pooling, "
            "then Dense, then Normalize."
        )


def _known_family(folder: Path, raw: dict[str, Any]) -> PoolingConfig:
    name = f"{raw.get('_name_or_path', '')} {folder.resolve().name}".lower()
    for part, mode in _KNOWN_FAMILIES.items():
        if part in name:
            return PoolingConfig(modes=(mode,), normalize=True, max_seq_length=_max_seq_length(folder))
    raise UnsupportedModelError(
        f"{folder} has no modules.json, so nothing says how to pool its hidden states; "
        "use the folder that sentence-transformers saves (modules.json and 1_Pooling/config.json)."
    )


def _modes(path: Path) -> tuple[PoolingMode, ...]:
    config = _load_object(path)
    if config.get("include_prompt") is False:
        raise UnsupportedModelError(f"{path} says include_prompt=false, which is not supported yet.")
    names = config.get("pooling_mode")
    if names is None:
        modes = tuple(mode for flag, mode in _FLAGS.items() if config.get(flag))
    else:
        wanted = [names] if isinstance(names, str) else list(names)
        modes = tuple(mode for name in wanted for mode in POOLING_MODES if mode == name)
        if len(modes) != len(wanted):
            raise UnsupportedModelError(f"{path}: pooling_mode {wanted}; supported are {', '.join(POOLING_MODES)}.")
    if not modes:
        raise UnsupportedModelError(f"{path} names no pooling mode; supported are {', '.join(POOLING_MODES)}.")
    return modes


def _dense(folder: Path) -> DenseConfig:
    config = _load_object(folder / "config.json")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1].lower()
    if name not in ("identity", "tanh", "relu", "gelu"):
        raise UnsupportedModelError(f"{folder}: activation {name} is not supported; identity, tanh, relu, gelu are.")
    return DenseConfig(
        folder=folder,
        in_features=int(config["in_features"]),
        out_features=int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=name,  # type: ignore[arg-type]  # one of the four, checked above
    )


def _max_seq_length(folder: Path) -> int | None:
    """Of sentence-transformers' file, else of the tokenizer's, which may hold a huge number for "no limit"."""
    limit = _load_object(folder / "sentence_bert_config.json").get("max_seq_length")
    if limit is None:
        limit = _load_object(folder / "tokenizer_config.json").get("model_max_length")
    return None if limit is None else int(limit)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnsupportedModelError(f"{path} cannot be read ({error}); download the model again.") from error


def _load_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data = _load(path)
    if not isinstance(data, dict):
        raise UnsupportedModelError(f"{path} must hold a JSON object; download the model again.")
    return data
