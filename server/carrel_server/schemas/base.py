"""Rules of every JSON body: null means absent, ``extra_body`` is unwrapped, nothing is ignored in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from carrel.errors import InvalidParamsError
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema

EMPTY: tuple[Any, ...] = (None, False, "", [], {})


def _fail_fast(schema: Any) -> None:
    """As pydantic's ``FailFast`` for each list in ``schema``; that one may not stand in a union on Python 3.11."""
    if isinstance(schema, list | tuple):
        for part in schema:
            _fail_fast(part)
    elif isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)


class Body(BaseModel):
    """Base of all request bodies.

    ``not_yet`` names fields that carrel refuses unless their value asks for nothing; ``neutral`` names fields that
    change nothing here and are accepted without a word (bookkeeping such as ``user``).
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=(), strict=False)

    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # field → values beside the empty ones that ask for nothing
    neutral: ClassVar[frozenset[str]] = frozenset({"user", "model"})

    model: str | None = None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Every list ends at its first wrong entry: a complaint of each of a million would hold the server for long."""
        schema = handler(source)
        _fail_fast(schema)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, data: Any) -> Any:
        """Only Python's SDK flattens ``extra_body``; other clients send it as it stands."""
        if not isinstance(data, dict):
            return data
        extra = data.get("extra_body")
        merged = {**extra, **data} if isinstance(extra, dict) else data
        return {key: value for key, value in merged.items() if value is not None and key != "extra_body"}

    def unknown_fields(self) -> list[str]:
        """Names that were sent and mean nothing here.

        Raises:
            InvalidParamsError: a field that carrel does not have yet asks for something.
        """
        extra = self.model_extra or {}
        nested = [(name, value) for name, value in self if isinstance(value, Body)]
        inner = [f"{name}.{field}" for name, value in nested for field in value.unknown_fields()]
        for name, harmless in self.not_yet.items():
            if name in extra and not _in(extra[name], (*EMPTY, *harmless)):
                raise InvalidParamsError(f"{name} is not supported by carrel yet; leave it out.", param=name)
        return [name for name in extra if name not in self.not_yet and name not in self.neutral] + inner


def _in(value: Any, values: tuple[Any, ...]) -> bool:
    """Membership that does not take 0 for False."""
    return any(type(value) is type(other) and value == other for other in values)


def as_list(value: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    """One entry an input, in whichever of OpenAI's four shapes they came.

    >>> as_list("a"), as_list([1, 2]), as_list([[1], [2]])
    (['a'], [[1, 2]], [[1], [2]])
    """
    if isinstance(value, str):
        return [value]
    ids = [item for item in value if isinstance(item, int)]
    return [ids] if ids else [item for item in value if not isinstance(item, int)]
