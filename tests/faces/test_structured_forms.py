"""What each form lets through: compiled over small tokenizers, driven without a model."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from carrel.errors import InvalidParamsError
from carrel.lark import after_thinking
from carrel.structured_output import GrammarCompiler, response_lark
from carrel.structured_params import StructuredOutputsParams
from carrel.tokenizer import Tokenizer
from carrel.tokenizer_files import TokenizerFiles
from grammar_walks import Walker, walker
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import byte_level

PERSON = {
    "type": "object",
    "properties": {
        "名字": {"type": "string", "maxLength": 8},
        "年龄": {"type": ["integer", "null"], "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["新", "旧", "old"]}, "maxItems": 3},
        "next": {"$ref": "#/$defs/place"},
    },
    "required": ["名字", "年龄", "next"],
    "additionalProperties": False,
    "$defs": {"place": {"anyOf": [{"type": "null"}, {"const": "北京"}]}},
}


@pytest.fixture(params=["byte_level", "byte_fallback"])
def texts(request: pytest.FixtureRequest) -> Walker:
    return walker(request.param)


def test_json_follows_its_schema_however_it_is_laid_out(texts: Walker) -> None:
    grammar = texts.form(json=PERSON)
    value = {"名字": '张三 "x"', "年龄": None, "tags": ["新", "old"], "next": "北京"}
    for layout in ({}, {"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}):
        assert texts.accepts(grammar, json.dumps(value, ensure_ascii=False, **layout)), layout
    for wrong in (
        '{"年龄": 1, "名字": "a", "next": null}',  # another order
        '{"名字": "a", "年龄": 151, "next": null}',
        '{"名字": "a", "年龄": 1}',
        '{"名字": "a", "年龄": 1, "next": "上海"}',
        '{"名字": "a", "年龄": 1, "next": null, "more": 1}',
        ' {"名字": "a", "年龄": 1, "next": null}',
    ):
        assert not texts.accepts(grammar, wrong), wrong
    assert texts.accepts(texts.form(json=json.dumps(PERSON)), '{"名字":"","年龄":0,"next":null}')


def test_white_space_does_not_go_on(texts: Walker) -> None:
    grammar = texts.form(json_object=True)
    assert texts.accepts(grammar, '{\n    "a": [1, 2], "b": {}\n}')
    assert not texts.accepts(grammar, '{   "a": 1}')
    assert not texts.accepts(grammar, '{"a":\n\n1}')
    assert not texts.accepts(grammar, '{"a":\n' + " " * 41 + "1}")
    assert not texts.accepts(grammar, '{"a": 1}\n')


def test_other_json(texts: Walker) -> None:
    anything = texts.form(json=True)
    assert all(texts.accepts(anything, text) for text in ("[1]", '"你好"', "null", "-1.5e3", '{"a": {"b": []}}'))
    assert not texts.accepts(texts.form(json_object=True), "[1]")
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}
    assert texts.accepts(texts.form(json=tree), "[[], [[]]]")


def test_regex_choice_grammar_substrings(texts: Walker) -> None:
    regex = texts.form(regex=r"^\d{3}-(是|no)/[^a]$")
    assert texts.accepts(regex, "123-是/b") and not texts.accepts(regex, "123-是/a")
    assert not texts.accepts(regex, "١٢٣-no/b"), "digits are ASCII"
    choice = texts.form(choice=["是", "是的", 'say "no"\n\x7f'])
    assert all(texts.accepts(choice, text) for text in ("是", "是的", 'say "no"\n\x7f'))
    assert not texts.accepts(choice, "是的的") and not texts.accepts(choice, "")
    for grammar in (
        'start: "甲" rest\nrest: /[0-9]+/ | "(" rest ")"',
        'root ::= "甲" rest\nrest ::= [0-9]+ | "(" rest ")"',
    ):
        assert texts.accepts(texts.form(grammar=grammar), "甲((12))")
        assert not texts.accepts(texts.form(grammar=grammar), "甲((12)")
    pieces = texts.form(substrings_of=["检索增强生成", "a quick\nfox"])
    assert all(texts.accepts(pieces, text) for text in ("索增强", "检索增强生成", "ick\nf", "x"))
    assert not any(texts.accepts(pieces, text) for text in ("", "检强", "quick fox", "成a"))


def test_a_grammar_may_hold_json_of_its_own(texts: Walker) -> None:
    grammar = texts.form(grammar='start: "调用 " %json {"type": "object"} // & ~ : "')
    assert texts.accepts(grammar, '调用 {"a": 1}')
    assert not texts.accepts(grammar, '调用 {    "a": 1}')


def test_special_tokens_are_no_text() -> None:
    """In a string their names are written with other tokens; by a wildcard no row is drawn that is no token."""
    texts = walker()
    grammar = texts.form(json_object=True)
    inside = texts.encode('{"a": "')
    special = {texts.tokenizer.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")}
    assert not special & set(texts.allowed(grammar, inside))
    assert texts.accepts(grammar, '{"a": "<|im_end|>"}')
    assert texts.tokenizer.token_to_id("<思考>") in texts.allowed(grammar, inside), "an added token may be text"
    assert len(texts.allowed(texts.form(grammar="start: <[*]>"))) == texts.tokenizer.vocab_size


def test_the_ends_stand_where_the_text_may_end() -> None:
    texts = walker()
    grammar = texts.form(regex="ab*")
    first, second = texts.encode("a"), texts.encode("ab")
    assert not set(texts.ends) & set(texts.allowed(grammar))
    assert set(texts.ends) < set(texts.allowed(grammar, first))
    assert set(texts.ends) < set(texts.allowed(grammar, second))
    assert texts.allowed(texts.form(choice=["ab"]), second) == sorted(texts.ends), "it must end"
    matcher = texts.form(choice=["ab"]).matcher()
    matcher.consume([*second, texts.ends[0]])  # an end is passed over


JSON = 'start: %json {"type": "object"}'


@pytest.mark.parametrize("end_id", [False, True])
@pytest.mark.parametrize("start", [None, "<think>"])
def test_behind_thoughts(start: str | None, end_id: bool) -> None:
    backend = byte_level()
    backend.add_special_tokens(["</think>"] if end_id else [])
    tokenizer = Tokenizer(TokenizerFiles(backend=backend))
    texts = Walker(tokenizer, ["<|im_end|>"])
    ending = tokenizer.token_to_id("</think>")
    lark = response_lark(StructuredOutputsParams(choice=["是", "}"]))
    grammar = texts.compiler.compile(after_thinking(lark, "</think>", start=start, end_id=ending))

    def text(thoughts: str, answer: str) -> list[int]:
        close = [ending] if ending is not None else texts.encode("</think>")
        return [*texts.encode(thoughts), *close, *texts.encode(answer)]

    opening = start or ""
    assert texts.accepts(grammar, text(opening + '我想 { " <x', "\n\n是"))
    assert texts.accepts(grammar, text(opening, "}"))
    assert not texts.accepts(grammar, text(opening + "a", "否"))
    assert not texts.accepts(grammar, text(opening + "a", "\n" * 9 + "是"))
    assert texts.accepts(grammar, "是") == (start is not None), "thoughts may be left out only where they are opened"
    assert not set(texts.ends) & set(texts.allowed(grammar, texts.encode(opening + "a"))), "thoughts do not end it"
    if not end_id:
        spelled = texts.encode(opening + "a</think>是", longest=1)
        assert texts.accepts(grammar, spelled), "whatever tokens write the end"


@pytest.mark.parametrize(("name", "end"), [("qwen3", "<|im_end|>"), ("phi-3-mini", "<|end|>")])
def test_over_the_vocabulary_of_a_released_model(real_tokenizer_folders: dict[str, Path], name: str, end: str) -> None:
    texts = Walker(Tokenizer.from_folder(real_tokenizer_folders[name]), [end])
    grammar = texts.form(json=PERSON)
    value = json.dumps({"名字": "张三", "年龄": 30, "next": "北京"}, ensure_ascii=False, indent=2)
    assert texts.accepts(grammar, value)
    assert not set(texts.ends) & set(texts.allowed(grammar, texts.encode('{"名字": "')))
    thinking = texts.compiler.compile(after_thinking(JSON, "</think>"))
    assert texts.accepts(thinking, '嗯 {"\n</think>\n\n{"a": 1}')
    for seed in range(3):
        text = texts.write(grammar, seed)
        if text is not None:
            jsonschema.validate(json.loads(text), PERSON)


def test_thoughts_that_begin_with_a_special_token() -> None:
    backend = byte_level()
    backend.add_special_tokens(["[THINK]", "[/THINK]"])
    tokenizer = Tokenizer(TokenizerFiles(backend=backend))
    texts = Walker(tokenizer, ["<|im_end|>"])
    ids = {name: tokenizer.token_to_id(name) for name in ("[THINK]", "[/THINK]")}
    lark = after_thinking(JSON, "[/THINK]", start="[THINK]", start_id=ids["[THINK]"], end_id=ids["[/THINK]"])
    grammar = texts.compiler.compile(lark)
    assert texts.accepts(grammar, tokenizer.encode("[THINK]嗯[/THINK]\n{}"))
    assert texts.accepts(grammar, "{}")
    assert not texts.accepts(grammar, tokenizer.encode("嗯[/THINK]{}"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"json": "{"}, "no JSON"),
    ({"json": "[1]"}, "not list"),
    ({"json": "[" * 5000}, "no JSON"),
    ({"json": '{"minimum": NaN}'}, "NaN"),
    ({"json": False}, "nothing"),
    ({"json": {"type": "strin"}}, "strin"),
    ({"json": {"if": {}}}, "if"),
    ({"json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
    ({"json": {"type": "string", "format": "binary"}}, "binary"),
    ({"json": {"$ref": "#/$defs/missing"}}, "missing"),
    ({"json": {"$ref": "https://example.com/schema"}}, "example.com"),
    ({"json": {"$ref": "#"}}, "no text has this form"),
    ({"json": {"enum": []}}, "empty"),
    ({"json": {"oneOf": [{"type": "string"}, {"maxLength": 3}]}}, "oneOf"),
    ({"json": {"type": "string", "pattern": "(?=a)"}}, "look"),
    ({"json": {"type": "integer", "minimum": 5, "maximum": 3}}, "minimum"),
    ({"json": {"const": {1, 2}}}, "written as JSON"),
    ({"json": {"const": "\ud800"}}, "surrogate"),
    ({"regex": ""}, "empty"),
    ({"regex": "("}, "unclosed"),
    ({"regex": "(?<=a)b"}, "look"),
    ({"grammar": 'other: "a"'}, "start"),
    ({"grammar": "start: missing"}, "missing"),
    ({"grammar": "root ::= missing"}, "missing"),
    ({"grammar": "::="}, "GBNF"),
    ({"grammar": "root ::= " + "(" * 5000}, "GBNF"),
    ({"grammar": '{"type": "object"}'}, "json"),
    ({"grammar": 'start: %json {"type": "strin"}'}, "strin"),
    ({"grammar": "start: %json [1]"}, "list"),
    ({"choice": ["\ud800"]}, "surrogate"),
]


@pytest.mark.parametrize(("form", "reason"), REFUSED, ids=[f"{next(iter(form))}-{reason}" for form, reason in REFUSED])
def test_what_makes_no_form_is_refused(form: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidParamsError, match=re.escape(reason)) as caught:
        walker().form(**form)
    assert caught.value.param == "structured_outputs"
    assert len(str(caught.value)) < 600


def chain(name: str, count: int) -> str:
    rules = [f'{name}{index}: {name}{index + 1} "x"' for index in range(count)]
    return "\n".join([f"start: {name}0", *rules, f'{name}{count}: "a"'])


def references(count: int) -> dict[str, Any]:
    defs: dict[str, Any] = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{count}": {}}}


def deep(count: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(count):
        schema = {"items": schema}
    return schema


BOMBS: dict[str, dict[str, Any]] = {
    "a chain of terminals": {"grammar": chain("A", 5000)},
    "a chain of rules": {"grammar": chain("a", 3000)},
    "doubled": {"grammar": "start: A0\n" + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(40)) + '\nA40: "a"'},
    "all of many": {"grammar": "start: A\nA: " + " & ".join(f"/(?s:.*)x{i}(?s:.*)/" for i in range(30))},
    "parentheses": {"grammar": "start: " + "(" * 20000 + '"a"' + ")" * 20000},
    "nested grammars": {"grammar": "start: " + "%lark { start: " * 900 + '"a"' + " }" * 900},
    "long": {"grammar": 'start: "' + "a" * 70_000 + '"'},
    "references": {"json": references(3000)},
    "references in a grammar": {"grammar": "start: %json " + json.dumps(references(1200))},
    "deep": {"json": deep(300)},
    "deep as text": {"json": json.dumps(deep(900))},
    "properties": {"json": {"properties": {f"p{i}": {} for i in range(5000)}}},
    "remainders": {"json": {"type": "integer", "multipleOf": 499979}},
    "fine remainders": {"json": {"type": "number", "multipleOf": 0.00123457}},
    "products of objects": {
        "json": {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(4)]} for i in range(12)]}
    },
    "patterns": {"json": {"type": "string", "allOf": [{"pattern": f"x{i}"} for i in range(12)]}},
    "choices": {"choice": [f"选择 {i}" for i in range(100_000)]},
    "texts": {"substrings_of": ["".join(chr(0x4E00 + i * 7919 % 20000) for i in range(90_000))]},
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_a_moment(name: str) -> None:
    compiler = walker()
    started = time.process_time()
    with pytest.raises(InvalidParamsError):
        compiler.form(**BOMBS[name])
    assert time.process_time() - started < 5.0  # about one second of a machine that has nothing else to do


@pytest.mark.parametrize(
    "form",
    [
        {"regex": "((a{0,1000}){0,1000}){0,1000}"},
        {"regex": "(a|b)*a(a|b){20}"},
        {"json": {"type": "array", "minItems": 100_000, "items": {"type": "string", "maxLength": 100_000}}},
        {"choice": [f"选择 {i}" for i in range(5000)]},
        {"grammar": 'start: (((a{100}){100}){100})*\na: "x" | "y"'},
        {"substrings_of": ["检索增强生成把文档和模型结合起来。" * 60] * 5},
    ],
    ids=lambda form: next(iter(form)),
)
def test_large_forms_that_are_no_bombs(form: dict[str, Any]) -> None:
    texts, started = walker(), time.process_time()
    texts.write(texts.form(**form), 0, most=40)
    assert time.process_time() - started < 5.0


def test_a_grammar_that_runs_over_its_limits_says_so_for_itself_alone() -> None:
    """Hundreds of lexemes that all stay possible: it compiles, and fails some tokens later."""
    texts = walker()
    grammar = texts.form(grammar="start: A\nA: /(.*a.{14})*/ & /(.*b.{15})*/ & /(.*e.{16})*/ & /(.*o.{17})*/")
    with pytest.raises(InvalidParamsError, match="structured_outputs: ") as caught:
        for seed in range(20):
            texts.write(grammar, seed, most=300)
    assert caught.value.param == "structured_outputs"
    assert texts.allowed(grammar), "another sequence is not touched"


def test_compiled_grammars_are_kept() -> None:
    texts = walker()
    assert texts.form(choice=["甲", "乙"]) is texts.form(choice=["甲", "乙"])
    compiler = GrammarCompiler(texts.tokenizer, texts.vocab_size, texts.ends)
    first = compiler.compile('start: "x"')
    for index in range(100):
        compiler.compile(f'start: "{index}"')
    assert compiler.compile('start: "x"') is not first, "but not for ever"


def test_a_model_without_an_end_has_no_forms() -> None:
    with pytest.raises(InvalidParamsError, match="no end-of-sequence token"):
        GrammarCompiler(walker().tokenizer, walker().vocab_size, [])


# -- random forms: whatever a model that knows nothing writes has the form

NAMES = st.text('ab名字é"\\', min_size=1, max_size=4)
LEAVES = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
              st.integers(-500, 500), st.integers(0, 900)),
    st.builds(lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
              st.integers(0, 2), st.integers(0, 4)),
    st.builds(lambda values: {"enum": values},
              st.lists(st.one_of(NAMES, st.integers(-9, 9), st.none()), min_size=1, max_size=3, unique_by=repr)),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}(是|否)$"}),
    st.just({"type": "string", "format": "date"}),
    st.builds(lambda step: {"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 99}, st.integers(1, 9)),
)  # fmt: skip


def _objects(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def make(properties: dict[str, Any], required: list[bool]) -> dict[str, Any]:
        names = [name for name, needed in zip(properties, required, strict=False) if needed]
        return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}

    return st.builds(make, st.dictionaries(NAMES, children, max_size=3), st.lists(st.booleans(), max_size=3))


SCHEMAS = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        _objects(children),
        st.builds(lambda item, most: {"type": "array", "items": item, "maxItems": most}, children, st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(children, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_random_texts_follow_random_schemas(schema: dict[str, Any], seed: int) -> None:
    texts = walker()
    text = texts.write(texts.form(json=schema), seed)
    if text is not None:
        jsonschema.validate(json.loads(text), schema)


@settings(max_examples=60, deadline=None)
@given(
    regex=st.sampled_from(
        [r"\d{1,3}(\.\d+)?", r"[^a-z\n]{2,9}", r"(你|好){1,5}!?", r"[a-z]+@[a-z]+\.com", r"a*b?c+", r"(?i)ok|不"]
    ),
    seed=st.integers(0, 1000),
)
def test_random_texts_match_their_regex(regex: str, seed: int) -> None:
    text = walker().write(walker().form(regex=regex), seed)
    assert text is None or re.fullmatch(regex, text)


@settings(max_examples=40, deadline=None)
@given(
    passages=st.lists(st.text('ab\n"\\检索增强', min_size=1, max_size=30), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_random_texts_stand_in_the_passages(passages: list[str], seed: int) -> None:
    text = walker().write(walker().form(substrings_of=passages), seed)
    assert text
    assert any(text in passage for passage in passages)
