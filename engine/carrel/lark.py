"""Pieces of grammar text: Lark as llguidance reads it. Knows how texts, JSON schemas and thoughts are written in it.

Whoever makes a grammar takes the pieces from here, so that JSON has the same bounds everywhere. Compiles nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from carrel.schema_limits import check_schema, refused

# Where JSON may have white space: at most once for each place, and no more than a pretty printer writes.
WHITE_SPACE = r"[ ]{1,2}|\r?\n([ ]{0,40}|\t{1,10})"
AFTER_THOUGHTS = r"/[ \t\r\n]{0,8}/"
ANY_TEXT = "/(?s:.*)/"

SCALARS = ("string", "integer", "number", "boolean", "null")
NOTES = frozenset({"description", "title", "$comment"})
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # their keys are names
VALUES = frozenset({"enum", "const", "default", "examples", "x-guidance"})

Schema = Mapping[str, Any] | bool


def quoted(text: str) -> str:
    """``text`` as a Lark literal.

    >>> print(quoted('say "你好"'))
    "say \\"你好\\""
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def json_value(schema: Schema) -> str:
    """A Lark expression: JSON that follows ``schema``, with bounded white space. Properties come in their order.

    >>> json_value({"type": "integer"}).startswith("%json {")
    True

    Raises:
        InvalidParamsError: it is not JSON, or nested too deeply.
    """
    if schema is False:
        raise refused("the JSON schema `false` lets nothing through.")
    rules = {} if schema is True else schema
    check_schema(rules)
    options = {} if rules.get("type") in SCALARS else {"x-guidance": {"whitespace_pattern": WHITE_SPACE}}
    try:
        return "%json " + json.dumps(_without_notes(rules) | options, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise refused(f"the JSON schema cannot be written as JSON: {error}.") from error


def _without_notes(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without what it says to people, which is most of what tools say."""
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in NOTES and isinstance(value, str):
            continue
        if key in NAMED and isinstance(value, Mapping):
            kept[key] = {name: _part_without_notes(part) for name, part in value.items()}
        else:
            kept[key] = value if key in VALUES else _part_without_notes(value)
    return kept


def _part_without_notes(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return [_part_without_notes(item) for item in part]
    return _without_notes(part) if isinstance(part, Mapping) else part


def json_text(schema: str) -> str:
    """:func:`json_value` of a schema that is JSON text."""
    try:
        found = json.loads(schema, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refused(f"the JSON schema is no JSON: {error}.") from error
    if not isinstance(found, dict | bool):
        raise refused(f"a JSON schema is an object, not {type(found).__name__}.")
    return json_value(found)


def nested(grammar: str) -> str:
    """A whole grammar, with its own names and its own ``start``, as one Lark expression."""
    return "%lark {\n" + grammar + "\n}"


def without(text: str) -> str:
    """The body of a Lark terminal: anything that does not hold ``text``."""
    return f"({ANY_TEXT} & ~({ANY_TEXT} {quoted(text)} {ANY_TEXT}))"


def after_thinking(
    lark: str, end: str, *, start: str | None = None, start_id: int | None = None, end_id: int | None = None
) -> str:
    """The form of ``lark`` behind thoughts: any text up to and with ``end``, then maybe white space.

    Args:
        lark: a whole grammar.
        end: what ends the thoughts; they hold it once.
        start: what thoughts begin with, if there need not be any; None: the text begins inside of them.
        start_id: the special token that ``start`` is; None: it is plain text, whatever tokens write it.
        end_id: the same of ``end``.

    >>> print(after_thinking('start: "是" | "否"', "</think>").splitlines()[0])
    start: thoughts form
    """
    opening, ending, body = "", f" {quoted(end)} {AFTER_THOUGHTS}", without(end)
    rules = []
    if start is not None and start_id is None:
        opening = f"{AFTER_THOUGHTS} {quoted(start)} "
    if end_id is not None:
        ending = ""
        rules.append(f"SPACE: {AFTER_THOUGHTS}")
    first = "" if start_id is None else f"<[{start_id}]> "
    last = "" if end_id is None else f" <[{end_id}]> SPACE?"
    rules = [f"thoughts: {first}THOUGHTS{last}", f"THOUGHTS: {opening}{body}{ending}", *rules]
    forms = "thoughts form" if start is None else "form | thoughts form"
    return "\n".join([f"start: {forms}", *rules, f"form: {nested(lark)}", ""])


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
