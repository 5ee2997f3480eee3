"""Kinds of values on the command line. Knows how they are written; does not know which flag takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from carrel.config import QUANTIZATIONS, DType, ModelSpec, Quantization, Task
from carrel.errors import InvalidParamsError

DTYPES: dict[str, DType] = {
    "auto": "auto",
    "half": "float16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float": "float32",
    "float32": "float32",
}
TASKS: dict[str, Task | None] = {
    "auto": None,
    "chat": "chat",
    "generate": "chat",
    "embed": "embedding",
    "embedding": "embedding",
    "rerank": "rerank",
    "score": "rerank",
    "classify": "rerank",
}
SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def count(value: str | int) -> int:
    """A whole number, also as vLLM writes it.

    >>> count("32k"), count("32K")
    (32000, 32768)
    """
    if isinstance(value, int):
        return value
    factor = SUFFIXES.get(value[-1:], 1)
    try:
        return int(float(value[:-1]) * factor) if factor > 1 else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a whole number such as 4096, 4k or 4K.") from None


def optional_count(value: str | int | None) -> int | None:
    """:func:`count`, or None for "auto" and -1, vLLM's ways to say "decide yourself"."""
    return None if value is None or value in ("auto", "-1") else count(value)


def seconds(value: str | float) -> float:
    try:
        number = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number of seconds.") from None
    if not 0 <= number < 1e9:
        raise click.BadParameter(f"{value!r} must be 0 or more.")
    return number


def key_file(value: str | Path) -> Path:
    """The file is read later; what is wrong with it is told without its contents."""
    path = Path(value)
    if not path.is_file():
        raise click.BadParameter(f"there is no file {str(value)!r}.")
    return path


def json_object(value: str | dict[str, Any]) -> dict[str, Any]:
    """A JSON object, e.g. ``{"enable_thinking": false}``."""
    if isinstance(value, dict):
        return value
    try:
        result = json.loads(value)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error}.") from None
    if not isinstance(result, dict):
        raise click.BadParameter(f"{value!r} is not a JSON object.")
    return result


def model_option(task: Task) -> Callable[[str | ModelSpec], ModelSpec]:
    """``NAME[,key=value…]`` as a :class:`~carrel.config.ModelSpec` of one task."""

    def model(value: str | ModelSpec) -> ModelSpec:
        return value if isinstance(value, ModelSpec) else parse_model(value, task)

    return model


def parse_model(text: str, task: Task | None) -> ModelSpec:
    """
    >>> parse_model("BAAI/bge-m3,max_model_len=4K,dtype=float32", "embedding").max_model_len
    4096

    Raises:
        click.BadParameter: an unknown key, or a value that is not of its kind.
    """
    name, *pairs = text.split(",")
    values: dict[str, Any] = {}
    served: list[str] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in MODEL_KEYS:
            raise click.BadParameter(f"{pair!r}: after the name come key=value, with one of {', '.join(MODEL_KEYS)}.")
        if key == "served_model_name":
            served.append(value)
        else:
            values[key] = MODEL_KEYS[key](value)
    return ModelSpec(name=name, task=task, served_model_name=tuple(served), **values)


def read_template(value: str) -> str:
    """
    Raises:
        click.BadParameter: neither a file nor a template.
    """
    path = Path(value)
    if "{" not in value and path.is_file():
        return path.read_text(encoding="utf-8")
    if "{" in value:
        return value
    raise click.BadParameter(f"{value!r} is neither a file nor the text of a chat template.")


def dtype_of(value: str) -> DType:
    if value not in DTYPES:
        raise click.BadParameter(f"dtype must be one of {', '.join(DTYPES)}; got {value!r}.")
    return DTYPES[value]


def quantization_of(value: str) -> Quantization | None:
    """How chat models' weights are kept; "none" as they are in the checkpoint."""
    if value.lower() == "none":
        return None
    found = next((name for name in QUANTIZATIONS if name == value), None)
    if found is None:
        raise click.BadParameter(
            f"quantization must be one of {', '.join(QUANTIZATIONS)}, got {value!r}; the checkpoint itself is bf16, "
            "fp16 or fp32."
        )
    return found


def tool_parser(value: str) -> str:
    """A name that --tool-call-parser takes; "none" turns it off."""
    from carrel.parsers.registry import resolve_tool_parser

    return _named(resolve_tool_parser, value)


def reasoning_parser(value: str) -> str:
    """A name that --reasoning-parser takes; "none" turns it off."""
    from carrel.parsers.registry import resolve_reasoning_parser

    return _named(resolve_reasoning_parser, value)


def _named(resolve: Callable[[str | None, str | None], str | None], value: str) -> str:
    try:
        resolve(value, None)
    except InvalidParamsError as error:
        raise click.BadParameter(str(error)) from None
    return value


MODEL_KEYS: dict[str, Any] = {
    "served_model_name": str,
    "dtype": dtype_of,
    "max_model_len": count,
    "revision": str,
    "chat_template": read_template,
    "tool_call_parser": tool_parser,
    "reasoning_parser": reasoning_parser,
}
