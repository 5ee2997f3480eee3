"""The tools of a call by name, as parsers and grammars need them. Knows JSON schemas a little; knows no text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from carrel.chat_options import Tool

Schema = Mapping[str, Any]
TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class ToolSet:
    """Tools that may be called.

    >>> tools = ToolSet([{"type": "function", "function": {"name": "查询", "strict": True}}])
    >>> list(tools), tools.schema("查询")["type"], tools.are_strict
    (['查询'], 'object', True)
    """

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        functions = [tool.get("function", tool) for tool in tools]
        self._functions: dict[str, Mapping[str, Any]] = {function["name"]: function for function in functions}

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    @property
    def are_strict(self) -> bool:
        """Whether the arguments of some must follow the schema even if the model calls by itself."""
        return any(function.get("strict") is True for function in self._functions.values())

    def schemas(self, names: Sequence[str]) -> dict[str, Schema]:
        """Schemas of the arguments of these tools."""
        return {name: self.schema(name) for name in names}

    def strict_schemas(self) -> dict[str, Schema]:
        """Schemas of all tools' arguments: any object where a tool is not strict."""
        return {
            name: self.schema(name) if function.get("strict") is True else {"type": "object"}
            for name, function in self._functions.items()
        }

    def schema(self, name: str) -> dict[str, Any]:
        """Schema of its arguments: always an object's. No parameters at all: an object of none."""
        parameters = self._functions[name].get("parameters")
        if not parameters:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **parameters}

    def types(self, name: str) -> dict[str, frozenset[str]]:
        """JSON types that each parameter may have; {} of a tool that is not known."""
        schema = self.schema(name) if name in self._functions else {}
        return {key: types_of(part, part) for key, part, _ in properties_of(schema)}


def properties_of(schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """(name, schema, whether it is needed) of each property; the schemas stand for themselves, definitions and all."""
    schema = resolved(schema, schema)
    properties, required = schema.get("properties"), schema.get("required")
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    needed = required if isinstance(required, Sequence) else ()
    for name, part in (properties if isinstance(properties, Mapping) else {}).items():
        found = resolved(part, schema)
        refers = "$ref" in repr(found)
        yield name, {**found, **shared} if refers else found, name in needed


def resolved(schema: Any, root: Schema, depth: int = 0) -> Schema:
    """The schema itself, where it is only a reference into ``root``."""
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    if not isinstance(reference, str) or not reference.startswith("#/") or depth > 8:
        return schema if isinstance(schema, Mapping) else {}
    target: Any = root
    for part in reference[2:].split("/"):
        target = target.get(part, {}) if isinstance(target, Mapping) else {}
    return resolved(target, root, depth + 1)


def types_of(schema: Schema, root: Schema | None = None) -> frozenset[str]:
    """JSON types that a value may have; all where the schema does not say.

    >>> sorted(types_of({"anyOf": [{"type": "integer"}, {"type": "null"}]}))
    ['integer', 'null']
    """
    if "const" in schema or isinstance(schema.get("enum"), Sequence):
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return frozenset(
            JSON_TYPES.get(type(value), "object" if isinstance(value, dict) else "array") for value in values
        )
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, Sequence):
        return frozenset(map(str, kind))
    for key in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(key), Sequence) and options:
            return frozenset[str]().union(*(types_of(resolved(option, root or {}), root) for option in options))
    return TYPES
