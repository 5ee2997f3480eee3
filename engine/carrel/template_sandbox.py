"""Where chat templates run, programs that come with a model or with a request. Knows Jinja; knows no messages.

A template can change nothing, and gets so many turns of its loops, so much time and so much text; more is refused.
Single steps are bounded where they make something large of something small: :mod:`carrel.template_limits`.
"""

from __future__ import annotations

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

from carrel.template_limits import (
    LARGE_WIDTH,
    TooMuch,
    bounded_filters,
    bounded_value,
    check_method,
    check_operator,
    check_size,
)

MAX_TURNS = 1_000_000  # of all loops and calls of one rendering
MAX_SECONDS = 10.0
# Filters and functions that make as much as they are told, and that no template of a chat needs.
UNBOUNDED = ("center", "wordwrap", "batch", "slice", "urlize", "xmlattr", "pprint")
BUDGET = "carrel_budget"


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
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=bounded_value
        )
        self.filters |= {"carrel_turns": _turns, "carrel_value": bounded_value} | bounded_filters()
        for name in UNBOUNDED:
            self.filters.pop(name)
        self.globals.pop("lipsum")
        self.globals |= {"raise_exception": _raise, "strftime_now": _now}

    def draw(self, template: jinja2.Template, **values: Any) -> str:
        """Render, as far as the budget goes.

        Raises:
            TooMuch: it does not go far enough.
        """
        pieces, length = [], 0
        for piece in template.generate(**values, **{BUDGET: Budget()}):
            pieces.append(piece)
            length += len(piece)
            check_size(length)
        return "".join(pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Jinja's hook for the operators above."""
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # as Jinja has it
        """Jinja's hook for calls, of macros too: each is a turn."""
        _budget(__context).spend()
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps a text's format
        if isinstance(text := getattr(method, "__self__", None), str):
            check_method(text, method.__name__, (*args, *kwargs.values()))
        return bounded_value(super().call(__context, __obj, *args, **kwargs))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        bounded: nodes.Template = _Bounds().visit(tree)
        bounded.set_environment(self)
        return bounded


class _Bounds(NodeTransformer):
    """Puts the filters that count around the iterables of loops, and around texts and values that are put together."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # named after the node
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "carrel_turns")  # type: ignore[arg-type]  # Jinja calls it any node
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(node, "carrel_value")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:
        self.generic_visit(node)
        node.filter = _filtered(node.filter, "carrel_value")
        return node

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        is_constant = all(isinstance(item, nodes.Const) for item in node.items)
        return node if is_constant or getattr(node, "ctx", "load") != "load" else _filtered(node, "carrel_value")

    visit_Tuple = visit_Dict = visit_List


class Generation(Extension):
    """``{% generation %}`` marks the model's own words for training; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _filtered(node: nodes.Expr | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno if node else 1)


def _budget(context: Context) -> Budget:
    budget = context.resolve(BUDGET)
    if not isinstance(budget, Budget):
        raise TooMuch(f"{BUDGET} is not its to set")
    return budget


@pass_context
def _turns(context: Context, items: Iterable[Any]) -> Iterable[Any]:
    budget = _budget(context)
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


def _now(form: str) -> str:
    if LARGE_WIDTH.search(form):
        raise TooMuch("a text that wide")
    return datetime.now().strftime(form)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
