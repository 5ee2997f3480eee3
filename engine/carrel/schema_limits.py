"""What a JSON schema may be at most. A limit keeps the grammar compiler from minutes of work, or off its stack's end.

Knows where schemas lie inside of schemas; does not know what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from carrel.errors import InvalidParamsError

MAX_BYTES = 256 << 10  # of the grammar of any form
MAX_DEPTH = 100  # lists and objects inside of one another
MAX_REFERENCE_DEPTH = 1000  # the same along all references together, for the compiler recurses into them
MAX_PROPERTIES = 1000  # of one object; the work grows with their square
MAX_MULTIPLE_OF = 99_999  # without the point: the automaton of 1.2345 has 12,345 states


def check_schema(schema: Mapping[str, Any]) -> None:
    """Pass a schema that can be compiled in a moment.

    Raises:
        InvalidParamsError: it is too large in one way or another.
    """
    depth, references = _look(schema)
    total = depth + sum(_look(_target(schema, reference))[0] for reference in references)
    if total > MAX_REFERENCE_DEPTH:
        count = len(references)
        raise refused(f"the schema's {count} references lead {total} levels deep; {MAX_REFERENCE_DEPTH} are allowed.")


def refused(reason: str) -> InvalidParamsError:
    """Why there is no grammar."""
    return InvalidParamsError(f"structured_outputs: {reason}", param="structured_outputs")


def _look(value: Any) -> tuple[int, set[str]]:
    """How many levels deep ``value`` is, and every ``$ref`` in it."""
    deepest, references, pending = 0, set[str](), [(value, 1)]
    while pending:
        item, level = pending.pop()
        if level > MAX_DEPTH:
            raise refused(f"the JSON schema is nested deeper than {MAX_DEPTH} levels.")
        if isinstance(item, Mapping):
            _check_object(item)
            if isinstance(item.get("$ref"), str):
                references.add(item["$ref"])
            pending += [(child, level + 1) for child in item.values()]
        elif isinstance(item, list | tuple):
            pending += [(child, level + 1) for child in item]
        else:
            continue
        deepest = max(deepest, level)
    return deepest, references


def _check_object(item: Mapping[str, Any]) -> None:
    properties = item.get("properties")
    if isinstance(properties, Mapping) and len(properties) > MAX_PROPERTIES:
        raise refused(f"an object of the JSON schema has {len(properties)} properties; {MAX_PROPERTIES} are allowed.")
    multiple = item.get("multipleOf")
    if isinstance(multiple, int | float) and _num_remainders(float(multiple)) > MAX_MULTIPLE_OF:
        raise refused(
            f"multipleOf {multiple} is too fine or too large: {MAX_MULTIPLE_OF} is the limit, points left out."
        )


def _num_remainders(number: float) -> int:
    """The number without its point.

    >>> _num_remainders(0.25), _num_remainders(1200.0), _num_remainders(3.0)
    (25, 1200, 3)
    """
    _, digits, exponent = Decimal(str(number)).normalize().as_tuple()
    if not isinstance(exponent, int) or exponent > 9:  # infinite, or nearly
        return MAX_MULTIPLE_OF + 1
    return int("".join(map(str, digits))) * int(10 ** max(0, exponent))


def _target(schema: Any, reference: str) -> Any:
    """What a reference inside of the schema leads to; None if there is nothing."""
    found = schema
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list | tuple) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            found = found.get(key) if isinstance(found, Mapping) else None
    return found
