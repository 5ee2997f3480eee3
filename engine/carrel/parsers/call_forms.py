"""How each format writes a call, as a grammar: the counterpart of the parsers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from carrel.lark import json_value, quoted
from carrel.parsers import deepseek, mistral, qwen3_coder
from carrel.parsers.bare_values import COMMA, bare_value, check_object, python_literal
from carrel.parsers.call_grammar import CallForm, Rules, Vocabulary, marked
from carrel.parsers.tool_set import Schema, others_of, properties_of

Body = Callable[[Rules, str, Schema], str]


def call_form(parser: str, vocabulary: Vocabulary) -> CallForm:
    """The form of calls that the parser of this name reads."""

    def token(text: str) -> str:
        return marked(text, vocabulary)

    def tagged(body: Body) -> CallForm:
        close = quoted("\n") + " " + token("</tool_call>")
        return CallForm(marker="<tool_call>", open=quoted("\n"), body=body, close=close, gap=quoted("\n"))

    if parser == "hermes":
        return tagged(_object("arguments"))
    if parser in ("qwen3_coder", "qwen3_xml", "mimo"):
        return tagged(_tags)
    if parser in ("llama3_json", "llama4_json"):
        return CallForm(opener="{", body=_object("parameters"), between=quoted("; "))
    if parser in ("pythonic", "llama4_pythonic"):
        return CallForm(opener="\\[", open=quoted("["), body=_python, between=quoted(", "), close=quoted("]"))
    if parser.startswith("deepseek"):
        return _deepseek(token, has_types=parser == "deepseek_v3")
    if parser == "mistral" and vocabulary.token_to_id(mistral.ARGS) is not None:
        return CallForm(marker=mistral.MARK, body=_named(token(mistral.ARGS)))
    listed = {"between": quoted(", "), "close": quoted("]")}
    if parser == "mistral":
        return CallForm(marker=mistral.MARK, open=quoted("["), body=_object("arguments"), **listed)
    if parser == "phi4_mini_json":
        return CallForm(marker="functools[", body=_object("arguments"), **listed)
    assert parser == "json", f"a parser without a form: {parser}"
    return CallForm(opener="\\[{", open=quoted("["), body=_object("parameters"), **listed)


def _object(key: str) -> Body:
    """``{"name": …, "arguments": {…}}``."""

    def body(rules: Rules, name: str, schema: Schema) -> str:
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": '
        return f"{quoted(head)} {json_value(schema)} {quoted('}')}"

    return body


def _named(mark: str) -> Body:
    return lambda rules, name, schema: f"{quoted(name)} {mark} {json_value(schema)}"


def _deepseek(token: Callable[[str], str], *, has_types: bool) -> CallForm:
    def typed(rules: Rules, name: str, schema: Schema) -> str:
        head, tail = quoted(f"{name}\n```json\n"), quoted("\n```")
        return f"{quoted('function')} {token(deepseek.SEP)} {head} {json_value(schema)} {tail}"

    def bare(rules: Rules, name: str, schema: Schema) -> str:
        return f"{quoted(name)} {token(deepseek.SEP)} {json_value(schema)}"

    line_break = quoted("\n") if has_types else ""
    return CallForm(
        marker=deepseek.CALLS_BEGIN,
        open=token(deepseek.CALL_BEGIN),
        body=typed if has_types else bare,
        between=f"{token(deepseek.CALL_END)} {line_break} {token(deepseek.CALL_BEGIN)}",
        close=f"{token(deepseek.CALL_END)} {token(deepseek.CALLS_END)}",
    )


# -- parameters one by one


def _python(rules: Rules, name: str, schema: Schema) -> str:
    """``name(key=value, …)`` in the order of the schema, every value as JSON, which Python's literals nearly are."""
    check_object(schema)
    other = others_of(schema)
    if other is not None:
        key = rules.terminal(r"/[\p{L}_][\p{L}\p{N}_]{0,63}=/")
        item = rules.rule(f"{key} {json_value(other) if other else python_literal(rules)}")
        arguments = f"({item} ({rules.terminal(COMMA)} {item})*)?"
    else:
        named = ((quoted(f"{key}=") + " " + value, needed) for key, value, needed in _values(schema))
        arguments = _listed(rules, named)
    return f"{quoted(name + '(')} {arguments} {quoted(')')}"


def _values(schema: Schema) -> Iterable[tuple[str, str, bool]]:
    for key, part, needed in properties_of(schema):
        if part.get("type") == "boolean" and "enum" not in part and "const" not in part:
            yield key, f"({quoted('True')} | {quoted('False')})", needed
        else:
            yield key, json_value(part), needed


def _listed(rules: Rules, items: Iterable[tuple[str, bool]]) -> str:
    """Items with commas between those that are there, needed or not: two rules for each place, one behind an item."""
    first = following = ""
    for item, needed in reversed(list(items)):
        here = rules.rule(item)
        if needed:
            first, following = f"{here} {following}", f"{quoted(', ')} {here} {following}"
        else:
            first = rules.rule(f"{here} {following} | {first or EMPTY}")
            following = rules.rule(f"{quoted(', ')} {here} {following} | {following or EMPTY}")
    return first.strip()


EMPTY = '""'


def _tags(rules: Rules, name: str, schema: Schema) -> str:
    """Qwen3-Coder's tags."""
    check_object(schema)
    end = f"\n{qwen3_coder.PARAMETER_END}\n"
    parts = []
    for key, part, needed in properties_of(schema):
        head = quoted(f"{qwen3_coder.PARAMETER}{key}>\n")
        value = bare_value(rules, part, end, qwen3_coder.PARAMETER_END)
        parts.append(rules.rule(f"{head} {value}") + ("" if needed else "?"))
    other = others_of(schema)
    if other is not None:
        head = rules.terminal(rf"{quoted(qwen3_coder.PARAMETER)} /[^<>\n]{{1,64}}>\n/")
        parts.append(rules.rule(f"{head} {bare_value(rules, other, end, qwen3_coder.PARAMETER_END)}") + "*")
    head = quoted(f"{qwen3_coder.FUNCTION}{name}>\n")
    return " ".join([head, *parts, quoted(qwen3_coder.FUNCTION_END)])
