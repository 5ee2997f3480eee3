"""Names of models that say more than which: ``bge-m3:query`` embeds queries. For clients that cannot send a field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from carrel.errors import ModelNotFoundError

from carrel_server.service import Service

if TYPE_CHECKING:
    from carrel.config import Ability
    from carrel.hosted_model import HostedModel

T = TypeVar("T")
INPUT_TYPES: Mapping[str, Literal["query", "document"]] = {"query": "query", "document": "document"}


def find_model(
    service: Service, name: str | None, ability: Ability, suffixes: Mapping[str, T]
) -> tuple[HostedModel, T | None]:
    """The model, and what the part after the colon means. A model whose own name has that colon comes first.

    Raises:
        ModelNotFoundError: no such name, with the suffix or without.
        UnsupportedTaskError: the model does something else.
    """
    try:
        return service.model(name, ability), None
    except ModelNotFoundError:
        base, colon, suffix = (name or "").rpartition(":")
        if not colon or suffix not in suffixes:
            raise
        return service.model(base, ability), suffixes[suffix]
