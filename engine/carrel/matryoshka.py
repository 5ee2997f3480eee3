"""Which embedding models were trained so that the first components of a vector are a good shorter vector.

Of any other model they are a bad one, and nothing would show it but worse answers. Knows configurations and names.
"""

from __future__ import annotations

from pathlib import Path

from carrel.errors import InvalidParamsError
from carrel.tokenizer_files import read_json

# Parts of names: these models' files do not say it.
FAMILIES = (
    "qwen3-embedding",
    "nomic-embed-text-v1.5",
    "jina-embeddings-v3",
    "snowflake-arctic-embed-m-v1.5",
    "snowflake-arctic-embed-l-v2.0",
    "snowflake-arctic-embed-m-v2.0",
    "mxbai-embed-large-v1",
    "embeddinggemma",
)


def is_matryoshka(name: str, folder: Path) -> bool:
    """True if the model's config.json says so (``is_matryoshka``, ``matryoshka_dimensions``), or its name is known."""
    config = read_json(folder / "config.json")
    if config.get("is_matryoshka") or config.get("matryoshka_dimensions"):
        return True
    names = f"{name} {folder.name} {config.get('_name_or_path', '')}".lower()
    return any(family in names for family in FAMILIES)


def check_dimensions(model: str, asked: int | None, dim: int, *, matryoshka: bool) -> None:
    """Refuse lengths that the model has no good vectors of; its own length is always fine.

    >>> check_dimensions("m", 384, 384, matryoshka=False)

    Raises:
        InvalidParamsError: ``param`` is "dimensions".
    """
    if asked is None or asked == dim or (matryoshka and asked < dim):
        return
    if matryoshka:
        raise InvalidParamsError(f"dimensions must be at most {dim} for {model}, got {asked}.", param="dimensions")
    raise InvalidParamsError(
        f"{model} gives {dim} dimensions and was not trained to be cut, so dimensions must be {dim} or left out, got "
        f'{asked}. If it is a Matryoshka model, say so in its config.json: "is_matryoshka": true.',
        param="dimensions",
    )
