"""A grammar that a caller wrote, as Lark that can be compiled in a moment: Lark or GBNF in, checked text out.

Knows where literals, comments and JSON schemas lie in a grammar; leaves its meaning to llguidance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from llguidance.gbnf_to_lark import gbnf_to_lark

from carrel.lark import json_value
from carrel.schema_limits import refused

MAX_BYTES = 64 << 10
MAX_RULES = 1000  # the compiler recurses along a chain of them
MAX_OPERATORS = 8  # of each of "&" and "~": every one may double the work
LITERAL = r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\])+/|(?:#|//)[^\n]*'  # strings, regular expressions, comments
STOPS = re.compile(rf"(?P<schema>%json\b\s*)|(?P<options>%regex\b\s*|%llguidance\b\s*)|{LITERAL}")


def checked_grammar(text: str) -> str:
    """The grammar as Lark.

    Raises:
        InvalidParamsError: it cannot be read, or it is too large in one way or another.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise refused(f"the grammar is longer than {MAX_BYTES >> 10} KiB.")
    pieces = list(_pieces(_to_lark(text)))
    rules = "".join(piece for piece, is_rules in pieces if is_rules)
    limits = [(":", "rules", MAX_RULES), ("&", "operators &", MAX_OPERATORS), ("~", "operators ~", MAX_OPERATORS)]
    for sign, name, limit in limits:
        if rules.count(sign) > limit:
            raise refused(f"the grammar has {rules.count(sign)} {name}; {limit} are allowed.")
    return "".join(piece for piece, _ in pieces)


def _to_lark(text: str) -> str:
    """llama.cpp's GBNF translated; Lark as it is."""
    if text.lstrip().startswith("{"):
        raise refused("the grammar is neither Lark nor GBNF; give a JSON schema as json.")
    if "::=" not in text:
        return text
    try:
        return gbnf_to_lark(text)
    except Exception as error:  # it raises plain Exception
        raise refused(f"the GBNF grammar cannot be read: {error}.") from error


def _pieces(lark: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and whether each is made of rules: no literal, no JSON. Schemas are checked and bounded."""
    position = 0
    while (stop := STOPS.search(lark, position)) is not None:
        yield lark[position : stop.start()], True
        position = stop.end()
        if stop["schema"] or stop["options"]:
            value, position = _json_at(lark, position)
            keeps = stop["options"] or "x-guidance" in value
            yield (stop[0] + json.dumps(value, ensure_ascii=False) if keeps else json_value(value)), False
            if keeps and stop["schema"]:
                json_value(value)
        else:
            yield stop[0], False
    yield lark[position:], True


def _json_at(lark: str, position: int) -> tuple[dict[str, object], int]:
    """The JSON object at ``position``, and where it ends."""
    try:
        value, end = json.JSONDecoder().raw_decode(lark, position)
    except (ValueError, RecursionError) as error:
        raise refused(f"the grammar holds JSON that cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise refused(f"the grammar holds JSON that is no object but {type(value).__name__}.")
    return value, end
