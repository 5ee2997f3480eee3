"""Reads a model folder's tokenizer files into one ``tokenizers.Tokenizer`` that nobody changes afterwards.

Knows ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``, and what transformers does with
them: added tokens, clean-up, and that the post-processor in ``tokenizer.json`` goes before ``add_bos_token`` and
``add_eos_token``. Does not encode or decode anything, and loads the package only when there is something to read: an
engine of token ids does without it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carrel.errors import UnsupportedModelError, WeightsError

SOURCES = ("vocab.*", "*.model", "merges.txt", "tekken.json", "*.tiktoken")  # what transformers can convert
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files say. ``backend`` is shared by all threads, so it must never be changed again."""

    backend: Any  # tokenizers.Tokenizer
    special_tokens: dict[str, str] = field(default_factory=dict)  # "eos_token" → "</s>"
    clean_up: bool = False  # remove the spaces that a word tokenizer leaves before punctuation
    chat_template: str | None = None
    tool_chat_template: str | None = None  # the one named "tool_use", if there is one beside it
    model_max_length: int | None = None


def load_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the tokenizer of a model folder.

    Raises:
        UnsupportedModelError: there is no tokenizer that carrel can read.
        WeightsError: a file is there but damaged.
    """
    config = read_json(folder / "tokenizer_config.json")
    backend = _read_backend(folder)
    # Baked-in limits would cut or pad every text in silence; carrel cuts where a caller asks for it, and never pads.
    backend.no_truncation()
    backend.no_padding()
    special = _special_tokens(folder, config)
    _add_tokens(backend, config, special)
    templates = _chat_templates(folder, config)
    return TokenizerFiles(
        backend=backend,
        special_tokens=special,
        clean_up=bool(config.get("clean_up_tokenization_spaces", False)) and _model_kind(backend) != "BPE",
        chat_template=templates.get("default") or next(iter(templates.values()), None),
        tool_chat_template=templates.get("tool_use"),
        model_max_length=_max_length(config),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}. Download the model again.") from error
    return content if isinstance(content, dict) else {}


def _read_backend(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _convert(folder)
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception on a broken file
        raise WeightsError(f"{path} is damaged: {error}. Download the model again.") from error


def _convert(folder: Path) -> Any:
    """Convert older files (``vocab.txt``, ``tokenizer.model``, …) with transformers, offline, no remote code."""
    advice = "Save a fast tokenizer into the folder: AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
    if not any(path for pattern in SOURCES for path in folder.glob(pattern)):
        raise UnsupportedModelError(f"{folder} has no tokenizer.json and no other tokenizer file. {advice}")
    import tokenizers
    from transformers import AutoTokenizer  # slow to import, seldom needed

    try:
        slow = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return tokenizers.Tokenizer.from_str(slow.backend_tokenizer.to_str())
    except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError) as error:
        raise UnsupportedModelError(
            f"{folder} has no tokenizer.json, and its other tokenizer files cannot be converted ({error}). {advice}"
        ) from error


def _model_kind(backend: Any) -> str:
    return type(backend.model).__name__


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    named = {**read_json(folder / "special_tokens_map.json"), **config}
    tokens = {name: _content(named.get(name)) for name in SPECIAL_NAMES}
    return {name: token for name, token in tokens.items() if token}


def _content(token: Any) -> str | None:
    """A special token is written as a string, or as an object with its ``content``."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _add_tokens(backend: Any, config: dict[str, Any], special: dict[str, str]) -> None:
    """Add what the config names and tokenizer.json lacks, as transformers does."""
    import tokenizers

    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder") or {}
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        if token["content"] not in known:
            flags = {name: bool(token.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "special")}
            normalized = bool(token.get("normalized", not flags["special"]))
            backend.add_tokens([tokenizers.AddedToken(token["content"], normalized=normalized, **flags)])
            known.add(token["content"])
    extra = [_content(token) for token in config.get("additional_special_tokens") or []]
    names = [token for token in (*special.values(), *extra) if token and token not in known]
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in names])


def _chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Templates by name. Those in ``.jinja`` files go before the ones in tokenizer_config.json."""
    listed = config.get("chat_template") or read_json(folder / "chat_template.json").get("chat_template")
    named: dict[str, Any] = {"default": listed}
    if isinstance(listed, list):
        named = {item["name"]: item["template"] for item in listed if {"name", "template"} <= item.keys()}
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    path = folder / "chat_template.jinja"
    if path.is_file():
        named, files = {}, {"default": path, **files}
    named |= {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    return {name: text for name, text in named.items() if isinstance(text, str) and text}


def _max_length(config: dict[str, Any]) -> int | None:
    """Tokenizers without a limit say 1e30."""
    length = config.get("model_max_length")
    return int(length) if isinstance(length, int | float) and length < 2**31 else None
