"""The tools of a call by name, as parsers and grammars need them. Knows JSON schemas a little; knows no text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from carrel.chat_options import Tool
from carrel.schema_limits import MAX_DEPTH

Schema = Mapping[str, Any]
TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
DEFINITIONS = ("$defs", "definitions")
IN_DEFINITIONS = tuple(f"#/{key}/" for key in DEFINITIONS)
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
        return {key: types_of(part, schema) for key, part, _ in parts_of(schema)}

    def other_types(self, name: str) -> frozenset[str]:
        """The same of a parameter that the tool does not name: a string where the schema does not say."""
        other = others_of(self.schema(name)) if name in self._functions else None
        return types_of(other, other) if other else frozenset({"string"})


def properties_of(schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """(name, schema, whether it is needed) of each property; the schemas stand for themselves, definitions and all."""
    stand_alone = standing_alone(schema)
    for name, part, needed in parts_of(schema):
        yield name, stand_alone(part), needed


def parts_of(schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """As :func:`properties_of`; the schemas may refer to the whole one."""
    root, schema = schema, resolved(schema, schema)
    properties, required = schema.get("properties"), schema.get("required")
    needed = required if isinstance(required, Sequence) else ()
    for name, part in (properties if isinstance(properties, Mapping) else {}).items():
        yield name, resolved(part, root), name in needed


def others_of(schema: Schema) -> Schema | None:
    """The schema of properties without a name, if that is how the schema speaks of them; None: there are none.

    >>> others_of({"type": "object"}), others_of({"properties": {"a": {}}})
    ({}, None)
    """
    found = resolved(schema, schema)
    other = found.get("additionalProperties", True)
    if found.get("properties") or other is False:
        return None
    return standing_alone(schema)(resolved(other, schema))


def standing_alone(root: Schema) -> Callable[[Schema], Schema]:
    """Makes of a part of ``root`` a schema with all that its references lead to.

    >>> root = {"properties": {"a": {"type": "string"}, "b": {"items": {"$ref": "#/properties/a"}}}}
    >>> standing_alone(root)(root["properties"]["b"])["items"]
    {'$ref': '#/$defs/root/properties/a'}
    """
    if all(reference.startswith(IN_DEFINITIONS) for reference in _references(root)):
        shared = {key: root[key] for key in DEFINITIONS if key in root}
        return lambda part: {**part, **shared} if _references(part) else part
    whole = {"root": _moved(root)}
    return lambda part: {**_moved(part), "$defs": whole} if _references(part) else part


def _references(value: Any) -> list[str]:
    found, pending = [], [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            if isinstance(reference := item.get("$ref"), str):
                found.append(reference)
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
    return found


def _moved(value: Any, depth: int = 0) -> Any:
    """A schema whose references lead to where the root goes. One that is too deep is left to those who refuse it."""
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {
            key: f"#/$defs/root{child[1:]}"
            if key == "$ref" and str(child).startswith("#")
            else _moved(child, depth + 1)
            for key, child in value.items()
        }
    return [_moved(child, depth + 1) for child in value] if isinstance(value, list | tuple) else value


def resolved(schema: Any, root: Schema, depth: int = 0) -> Schema:
    """The schema itself, where it is only a reference into ``root``, or all of one schema."""
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    if isinstance(schema, Mapping) and isinstance(several := schema.get("allOf"), Sequence) and len(several) == 1:
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        return {**resolved(several[0], root, depth + 1), **rest} if depth <= 8 else schema
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
