"""The form of an answer that calls tools, as a grammar. Knows how calls and text alternate; knows no format's body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from carrel.errors import InvalidParamsError
from carrel.lark import ANY_TEXT, quoted
from carrel.parsers.tool_set import Schema
from carrel.schema_limits import MAX_BYTES, refused

SPACE = r"/[ \t\r\n]{0,8}/"  # before the first call
Schemas = Mapping[str, Schema]  # of a tool's arguments, by its name


class Vocabulary(Protocol):
    """What is needed of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_to_id(self, token: str) -> int | None: ...


class Rules:
    """Rules of one grammar, named as they come; what is the same has one name.

    >>> rules = Rules()
    >>> name = rules.rule('"a"')
    >>> rules.text(f"{name}+")
    'start: r0+\\nr0: "a"\\n'
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._names: dict[tuple[str, str, str], str] = {}
        self._size = 0

    def rule(self, expression: str, options: str = "") -> str:
        """A rule's name."""
        return self._add("r", options, expression)

    def terminal(self, expression: str) -> str:
        """A terminal's name: one regular expression."""
        return self._add("T", "", expression)

    def fill(self, name: str, expression: str) -> None:
        """What a rule is that was named before, for it stands in itself."""
        self._lines[int(name[1:])] = f"{name}: {expression}"

    def text(self, start: str) -> str:
        """The grammar whose answer is ``start``."""
        return "\n".join([f"start: {start}", *self._lines, ""])

    def _add(self, kind: str, options: str, expression: str) -> str:
        name = self._names.get((kind, options, expression))
        if name is None:
            name = f"{kind}{len(self._lines)}"
            self._lines.append(f"{name}{options}: {expression}")
            self._size += len(self._lines[-1])
            if self._size > MAX_BYTES:  # at once: every rule may be as long as all schemas together
                raise refused(f"together they take more than {MAX_BYTES >> 10} KiB.")
            if expression:  # an empty one is filled later
                self._names[kind, options, expression] = name
        return name


@dataclass(frozen=True, kw_only=True)
class CallForm:
    """How one format writes calls, in Lark expressions: groups of one or more of them."""

    marker: str = ""  # text that begins a group; "": a group begins with ``opener`` and only the answer
    opener: str = ""
    open: str = ""  # behind the marker
    body: Callable[[Rules, str, Schema], str]  # one call: name and schema of its arguments
    between: str | None = None  # between calls of one group; None: a group is one call
    close: str = ""
    gap: str = ""  # between groups


def marked(marker: str, vocabulary: Vocabulary) -> str:
    """A marker as a Lark expression: its text, or its own token where that is special, which no text matches."""
    token_id = special_id(marker, vocabulary)
    return quoted(marker) if token_id is None else f"(<[{token_id}]> | {quoted(marker)})"


def about_tools(error: InvalidParamsError) -> InvalidParamsError:
    """What is wrong with a form, said of the tools that it was made of."""
    return InvalidParamsError("tools: " + str(error).removeprefix("structured_outputs: "), param="tools")


def special_id(marker: str, vocabulary: Vocabulary) -> int | None:
    """Id of the special token that a marker is; None if it is text."""
    token_id = vocabulary.token_to_id(marker)
    return token_id if token_id in vocabulary.special_ids else None


def calls_grammar(form: CallForm, schemas: Schemas, vocabulary: Vocabulary, *, many: bool) -> str:
    """An answer that is a call of one of the tools, or ``many`` of them, and nothing else."""
    rules = Rules()
    call = _calls(rules, form, schemas)
    begin = f"{marked(form.marker, vocabulary)} {form.open}" if form.marker else form.open
    if many and form.between is not None:
        call = f"{call} ({form.between} {call})*"
    group = rules.rule(f"{begin} {call} {form.close}".strip())
    if many and form.between is None:
        group = f"{group} ({form.gap} {group})*"
    return rules.text(f"{SPACE} {group}")


def free_grammar(
    form: CallForm, schemas: Schemas, vocabulary: Vocabulary, *, many: bool, thought_start: str | None = None
) -> str:
    """An answer that is text and calls as the model likes, the calls well formed: at most one unless ``many``.

    Text does not begin with ``thought_start``, so that what thoughts say of calls is no call.
    """
    rules = Rules()
    call = _calls(rules, form, schemas)
    if many and form.between is not None:
        call = f"{call} ({form.between} {call})*"
    rest = f"{form.open} {call} {form.close}"
    thoughts = f"{SPACE} {quoted(thought_start)} {ANY_TEXT}" if thought_start else ""
    text = rules.terminal(f"{ANY_TEXT} & ~({thoughts})" if thoughts else ANY_TEXT)
    if not form.marker:
        other = rules.terminal(rf"/[^\s{form.opener}](?s:.*)/")
        return rules.text(f"{SPACE} ({other} | {rest})?")
    trigger = rules.rule(f"{text} {quoted(form.marker)}", "[lazy]")
    token_id = special_id(form.marker, vocabulary)
    begin = trigger if token_id is None else f"({text} <[{token_id}]> | {trigger})"
    group = rules.rule(f"{begin} {rest}")
    return rules.text(f"{group}* {text}" if many else f"{group} | {text}")


def _calls(rules: Rules, form: CallForm, schemas: Schemas) -> str:
    return rules.rule(" | ".join(rules.rule(form.body(rules, name, schema)) for name, schema in schemas.items()))
