"""Where chat templates run, programs that come with a model or with a request. Knows Jinja; knows no messages.

A template can change nothing, and gets so many turns of its loops, so much time and so much text; more is refused.
Single steps are bounded where they make something large of something small: products, powers, joined and padded texts.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_TURNS = 1_000_000  # of all loops of one rendering
MAX_SECONDS = 10.0
MAX_TEXT = 1 << 24  # characters of a rendering, and of every text on the way
MAX_EXPONENT = 64
LARGE_NUMBER = re.compile(r"\d{5}")  # a width in a format
BUDGET = "carrel_budget"


class TooMuch(jinja2.TemplateRuntimeError):
    """The template asked for more than it may have."""


class Budget:
    """What one rendering has left."""

    def __init__(self) -> None:
        self.turns = MAX_TURNS
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self) -> None:
        """One turn of a loop."""
        self.turns -= 1
        if self.turns < 0 or time.monotonic() > self.deadline:
            raise TooMuch(f"it takes more than {MAX_TURNS} turns or {MAX_SECONDS:.0f} seconds")


class Sandbox(ImmutableSandboxedEnvironment):
    """Set up as transformers does it: templates are written for that.

    >>> Sandbox().draw(Sandbox().from_string("{% for i in range(3) %}{{ i }}{% endfor %}"))
    '012'
    """

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.filters |= {"tojson": _to_json, "carrel_turns": _turns, "carrel_text": _bounded_text}
        self.filters.pop("center")  # pads as far as it is told
        self.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}

    def draw(self, template: jinja2.Template, **values: Any) -> str:
        """Render, as far as the budget goes.

        Raises:
            TooMuch: it does not go far enough.
        """
        pieces, length = [], 0
        for piece in template.generate(**values, **{BUDGET: Budget()}):
            pieces.append(piece)
            length += len(piece)
            _check_size(length)
        return "".join(pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Jinja's hook for the operators above."""
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    _check_size(len(text) * times)
        elif operator == "**" and not (abs(left) <= MAX_TEXT and abs(right) <= MAX_EXPONENT):
            raise TooMuch("a power that large")
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check_size(len(left) + len(right))
        elif operator == "%" and isinstance(left, str) and LARGE_NUMBER.search(left):
            raise TooMuch("a text that wide")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # as Jinja has it
        """Jinja's hook for calls: texts are padded by numbers, or by numbers in a format."""
        if isinstance(text := getattr(__obj, "__self__", None), str):
            numbers = [value for value in (*args, *kwargs.values()) if isinstance(value, int)]
            formats = __obj.__name__.startswith("format") and LARGE_NUMBER.search(text)
            if formats or any(number > MAX_TEXT for number in numbers):
                raise TooMuch("a text that wide")
        return super().call(__context, __obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        bounded: nodes.Template = _Bounds().visit(tree)
        bounded.set_environment(self)
        return bounded


class _Bounds(NodeTransformer):
    """Puts the filters that count around the iterables of loops and around joined texts."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # named after the node
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "carrel_turns")  # type: ignore[arg-type]  # Jinja calls it any node
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(node, "carrel_text")


class Generation(Extension):
    """``{% generation %}`` marks the model's own words for training; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context
def _turns(context: Context, items: Iterable[Any]) -> Iterable[Any]:
    budget = context.resolve(BUDGET)
    if not isinstance(budget, Budget):
        raise TooMuch(f"{BUDGET} is not its to set")
    if isinstance(items, jinja2.Undefined) or not hasattr(items, "__len__"):
        return _counted(budget, items)
    return _Sized(budget, items)


def _counted(budget: Budget, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        budget.spend()
        yield item


class _Sized:
    """Counts turns, and keeps the length, which ``loop.length`` and ``loop.last`` ask for."""

    def __init__(self, budget: Budget, items: Any) -> None:
        self._budget, self._items = budget, items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return _counted(self._budget, self._items)


def _bounded_text(text: Any) -> Any:
    _check_size(len(text))
    return text


def _check_size(length: int) -> None:
    if length > MAX_TEXT:
        raise TooMuch(f"it makes more than {MAX_TEXT} characters")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which a prompt must not be."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
