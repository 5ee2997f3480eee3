"""How large what a chat template makes may get, step by step: every step that makes much of little asks here first.

Knows texts, lists and Jinja's filters; knows no template and no time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
from jinja2 import filters, pass_eval_context
from jinja2.nodes import EvalContext
from markupsafe import soft_str

MAX_TEXT = 1 << 24  # characters of a rendering, and of every text and value on the way
PER_ITEM = 16
MAX_EXPONENT = 64
MAX_INDENT = 100
LARGE_WIDTH = re.compile(r"\d{5}|%[^a-zA-Z%]*\*")  # in a format


class TooMuch(jinja2.TemplateRuntimeError):
    """The template asked for more than it may have."""


def check_size(length: int) -> None:
    """Pass texts and values that are not too large.

    Raises:
        TooMuch: this one is.
    """
    if length > MAX_TEXT:
        raise TooMuch(f"it makes more than {MAX_TEXT} characters")


def size_of(value: Any) -> int:
    """Characters of a value when it is written out, and some for each item. One that stands in it twice is written
    twice. It counts no further than the limit.

    >>> size_of("你好"), size_of(["a", ["b"]])
    (2, 66)
    """
    if isinstance(value, str):
        return len(value)
    size, pending = 0, [value]
    while pending and size <= MAX_TEXT:
        item = pending.pop()
        size += len(item) + PER_ITEM if isinstance(item, str) else PER_ITEM
        if isinstance(item, Mapping):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
    return size


def bounded_value(value: Any) -> Any:
    """``value``, if it is not too large."""
    if isinstance(value, str | list | tuple | dict):
        check_size(size_of(value))
    return value


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Pass a product, power, sum or format that gives nothing too large."""
    if operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, str | list | tuple) and isinstance(times, int):
                check_size(size_of(value) * times)
    elif operator == "**" and not (abs(left) <= MAX_TEXT and abs(right) <= MAX_EXPONENT):
        raise TooMuch("a power that large")
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        check_size(len(left) + len(right))
    elif operator == "%" and isinstance(left, str) and LARGE_WIDTH.search(left):
        raise TooMuch("a text that wide")


def check_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    """Pass a call of a text's method that gives nothing too large."""
    numbers = [value for value in args if isinstance(value, int)]
    if any(number > MAX_TEXT for number in numbers) or (name.startswith("format") and LARGE_WIDTH.search(text)):
        raise TooMuch("a text that wide")
    if name == "replace" and len(args) >= 2:
        _check_replaced(text, args[0], args[1])
    elif name == "expandtabs":
        check_size(len(text) + text.count("\t") * max(numbers, default=8))
    elif name == "join" and args and hasattr(args[0], "__len__"):
        check_size(size_of(args[0] if isinstance(args[0], list | tuple) else list(args[0])) + len(text) * len(args[0]))
    elif name == "translate":
        raise TooMuch("a text that is translated")


def _check_replaced(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        check_size(len(text) + text.count(old) * max(0, len(new) - len(old)))


# -- filters


def bounded_filters() -> dict[str, Callable[..., Any]]:
    """Jinja's own, where they give much for little."""
    return {
        "tojson": _to_json,
        "indent": _indent,
        "replace": _replace,
        "join": _join,
        "format": _format,
        "string": lambda value: soft_str(bounded_value(value)),
    }


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which a prompt must not be."""
    _check_indent(indent)
    bounded_value(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check_indent(width)
    return filters.do_indent(text, width, first, blank)


def _check_indent(width: int | str | None) -> None:
    if width is not None and (len(width) if isinstance(width, str) else width) > MAX_INDENT:
        raise TooMuch("an indent that wide")


@pass_eval_context
def _replace(context: EvalContext, text: str, old: str, new: str, count: int | None = None) -> str:
    _check_replaced(str(text), old, new)
    return filters.do_replace(context, text, old, new, count)


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    if attribute is None:
        check_size(size_of(items) + len(d) * len(items))
    return filters.sync_do_join(context, items, d, attribute)


def _format(text: str, *args: Any, **kwargs: Any) -> str:
    if LARGE_WIDTH.search(text):
        raise TooMuch("a text that wide")
    return filters.do_format(text, *args, **kwargs)
