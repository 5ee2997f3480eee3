"""Values that stand in an answer without quotes, as a grammar: strings bare, everything else as JSON.

Knows what of a JSON schema can be said of bare text. The rest it does not pass over: :class:`NoForm`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from carrel.errors import InvalidParamsError
from carrel.lark import json_value, quoted, without
from carrel.parsers.call_grammar import Rules
from carrel.parsers.tool_set import DEFINITIONS, TYPES, Schema, parts_of, resolved, types_of

CONTAINERS = frozenset({"object", "array"})
LOOKS_LIKE_ONE = r"/\s*[\[{(](?s:.*)/"  # a text that a parser takes for a list or an object
OF_OBJECTS = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "minProperties", "maxProperties", "propertyNames"}
    | {"dependentRequired", "dependentSchemas", "dependencies"}
)
OF_VALUES = frozenset({"allOf", "not", "if"})
ESCAPE_OR_SET = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
DATE = r"[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|[12][0-9]))"
TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
BYTE = "(25[0-5]|(2[0-4]|1[0-9]|[1-9])?[0-9])"
FORMATS = {  # the others are notes for the model, as JSON Schema has it
    "date": DATE,
    "time": TIME,
    "date-time": f"{DATE}T{TIME}",
    "uuid": "[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "ipv4": rf"({BYTE}\.){{3}}{BYTE}",
    "email": r"[A-Za-z0-9_%+-]{1,32}(\.[A-Za-z0-9_%+-]{1,32}){0,4}@([A-Za-z0-9]{1,32}[.-]){1,6}[A-Za-z]{2,24}",
}


COMMA = r"/[ \n]{0,2},[ \n]{0,20}/"
COLON = r"/ ?:[ \n]{0,20}/"
TEXT_IN_QUOTES = r"""/"([^"\\\n]|\\[^xuUN\n])*"|'([^'\\\n]|\\[^xuUN\n])*'/"""


class NoForm(InvalidParamsError):
    """What writes parameters one by one cannot be held to this schema."""

    def __init__(self, keyword: str) -> None:
        message = f"structured_outputs: calls that name their parameters one by one cannot be held to {keyword!r}."
        super().__init__(message, param="structured_outputs")


def check_object(schema: Schema) -> None:
    """Pass arguments whose schema says nothing but what each of them is, and which there must be.

    Raises:
        NoForm: it says more.
    """
    found = resolved(schema, schema)
    if said := OF_OBJECTS & found.keys():
        raise NoForm(min(said))
    known = {name for name, _, _ in parts_of(schema)}
    if any(name not in known for name in found.get("required") or ()):
        raise NoForm("required")


def bare_value(rules: Rules, schema: Schema, end: str, inside: str) -> str:
    """A Lark expression: a value, and the text ``end`` behind it. A string does not hold ``inside``.

    Raises:
        NoForm: a bare string cannot be held to the schema.
    """
    return f"({' | '.join(_spellings(rules, schema, end, inside, frozenset()))})"


def python_literal(rules: Rules) -> str:
    """A rule's name: any literal that :mod:`carrel.parsers.python_literal` reads."""
    text, number = (
        rules.terminal(TEXT_IN_QUOTES),
        rules.terminal(r"/-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?(e[+-]?[0-9]{1,3})?/"),
    )
    word = rules.terminal("/True|False|None|true|false|null/")
    comma, colon = rules.terminal(COMMA), rules.terminal(COLON)
    name = rules.rule("")
    items = f"({name} ({comma} {name})*)?"
    pairs = f"({text} {colon} {name} ({comma} {text} {colon} {name})*)?"
    rules.fill(name, f'{text} | {number} | {word} | "[" {items} "]" | "(" {items} ")" | "{{" {pairs} "}}"')
    return name


def _spellings(rules: Rules, schema: Schema, end: str, inside: str, beside: frozenset[str]) -> Iterator[str]:
    """``beside``: the types that the value may have as well."""
    kinds = types_of(schema, schema)
    words = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else None
    options = schema.get("anyOf", schema.get("oneOf"))
    if "string" not in kinds:
        yield f"{json_value(schema)} {quoted(end)}"
    elif isinstance(words, list):
        spelled = [word if isinstance(word, str) else json.dumps(word, ensure_ascii=False) for word in words]
        yield f"({' | '.join(map(quoted, spelled))}) {quoted(end)}"
    elif isinstance(options, Sequence) and options:
        shared = {key: schema[key] for key in DEFINITIONS if key in schema}
        for option in options:
            yield from _spellings(rules, {**resolved(option, schema), **shared}, end, inside, beside | kinds)
    elif kinds not in (TYPES, {"string"}):
        for kind in sorted(kinds):
            yield from _spellings(rules, {**schema, "type": kind}, end, inside, beside | kinds)
    else:
        yield rules.terminal(f"({_text(schema, inside, beside)}) {quoted(end)}")


def _text(schema: Schema, inside: str, beside: frozenset[str]) -> str:
    """The body of a terminal: a string of this schema."""
    if said := OF_VALUES & schema.keys():
        raise NoForm(min(said))
    limits = [without(inside), *_length(schema)]
    if beside & CONTAINERS:
        limits.append(f"~({LOOKS_LIKE_ONE})")
    if isinstance(pattern := schema.get("pattern"), str):
        limits.append(_pattern(pattern))
    if schema.get("format") in FORMATS:
        limits.append(f"/{FORMATS[schema['format']]}/")
    return " & ".join(limits)


def _length(schema: Mapping[str, object]) -> Iterator[str]:
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) or isinstance(most, int):
        yield f"/(?s:.{{{least or 0},{'' if most is None else most}}})/"


def _pattern(pattern: str) -> str:
    """A text that holds what ``pattern`` matches. Anchors stand at its ends alone: nothing looks around.

    >>> print(_pattern("^a/b"))
    /(?:a\\/b)(?s:.*)/
    """
    from llguidance import regex_to_lark  # takes its time to load

    bare = ESCAPE_OR_SET.sub("-", pattern)
    begins, ends = bare.startswith("^"), bare.endswith("$")
    inner = bare[begins : len(bare) - ends]
    if "(?=" in bare or "(?!" in bare or "(?<" in bare or "^" in inner or "$" in inner:
        raise NoForm("pattern")
    if (begins or ends) and _has_branches(inner):
        raise NoForm("pattern")
    body = regex_to_lark(pattern[begins : len(pattern) - ends], "d")
    return f"/{'' if begins else '(?s:.*)'}(?:{body}){'' if ends else '(?s:.*)'}/"


def _has_branches(bare: str) -> bool:
    """Whether the whole expression is several, with bars between them."""
    depth = 0
    for char in bare:
        depth += (char == "(") - (char == ")")
        if char == "|" and not depth:
            return True
    return False
