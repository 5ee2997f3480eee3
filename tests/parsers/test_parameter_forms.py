"""Calls that name their parameters one by one: bare values, held to what pydantic and zod say of them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import fold
from carrel.chat_options import ChatOptions
from carrel.errors import InvalidParamsError
from carrel.parsers import answer_format
from carrel.parsers.call_forms import call_form
from carrel.parsers.call_grammar import calls_grammar, free_grammar
from carrel.parsers.registry import tool_parsers
from carrel.parsers.tool_set import ToolSet
from carrel.structured_output import GrammarCompiler
from carrel.tokenizer import Tokenizer
from scripted import scripted_folder
from tiny_models import TinyModels

BY_NAME = ("qwen3_coder", "pythonic")
COLOR = {"enum": ["红", "green"], "title": "Color", "type": "string"}
NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
    "required": ["v"],
    "additionalProperties": False,
}
VALUES: dict[str, tuple[Mapping[str, Any], list[str], list[str]]] = {  # schema, what may stand there bare, what may not
    "pattern": ({"type": "string", "pattern": "^[a-z]{2,3}$", "maxLength": 3}, ["ab", "abc"], ["a", "北京", "ab\n"]),
    "pattern inside": ({"type": "string", "pattern": r"\d/"}, ["北1/京"], ["1", "/"]),
    "optional enum": ({"anyOf": [COLOR, {"type": "null"}]}, ["红", "null"], ["blue", "3"]),
    "optional reference": ({"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}, ["green", "null"], ["x"]),
    "one of all": ({"allOf": [{"$ref": "#/$defs/Color"}], "default": "红"}, ["红"], ["x"]),
    "date": ({"type": "string", "format": "date"}, ["2026-11-20"], ["2026-13-01", "20.11.2026", "2026-11-31"]),
    "time": ({"type": "string", "format": "date-time"}, ["2026-11-20T08:00:00Z"], ["2026-11-20"]),
    "address": ({"type": "string", "format": "ipv4"}, ["10.0.255.1"], ["10.0.256.1"]),
    "mail": ({"type": "string", "format": "email"}, ["a.b@example.org"], ["a.b"]),
    "a format for people": ({"type": "string", "format": "color"}, ["红"], []),
    "text or list": (
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        ['["a"]'],
        ["[1]"],
    ),
    "several types": ({"type": ["integer", "string"], "maxLength": 3}, ["12345", "abc"], ["abcd"]),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("parameters")
    return Tokenizer.from_folder(scripted_folder(tiny_models, folder, special=["<|im_end|>"], added=["<tool_call>"]))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    end = tokenizer.token_to_id("<|im_end|>")
    assert end is not None
    return GrammarCompiler(tokenizer, tokenizer.vocab_size, [end])


@pytest.fixture(scope="module")
def takes(tokenizer: Tokenizer, compiler: GrammarCompiler) -> Callable[[str, str], bool]:
    """Whether a grammar lets a whole text through."""

    def run(lark: str, text: str) -> bool:
        matcher = compiler.compile(lark).matcher()
        for token_id in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.token_to_id("<|im_end|>")]:
            if token_id not in allowed(tokenizer, matcher):
                return False
            matcher.consume([token_id])
        return True

    return run


def allowed(tokenizer: Tokenizer, matcher: Any) -> list[int]:
    mask = np.zeros(-(-tokenizer.vocab_size // 32), dtype=np.int32)
    matcher.fill_bitmask(mask)
    return [int(token) for token in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]


def tool(parameters: Mapping[str, Any] | None, **more: Any) -> ToolSet:
    return ToolSet([{"type": "function", "function": {"name": "f", "parameters": parameters, **more}}])


def coder_call(key: str, value: str) -> str:
    return f"<tool_call>\n<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize("case", VALUES)
def test_bare_values(case, tokenizer, takes):
    schema, good, bad = VALUES[case]
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"], "$defs": {"Color": COLOR}}
    lark = calls_grammar(call_form("qwen3_coder", tokenizer), tool(parameters).schemas(["f"]), tokenizer, many=False)
    assert [value for value in good if not takes(lark, coder_call("a", value))] == []
    assert [value for value in bad if takes(lark, coder_call("a", value))] == []


@pytest.mark.parametrize("parser", BY_NAME)
def test_references_into_the_whole_schema(parser, tokenizer, compiler):
    """As zod writes them, and a schema that holds itself."""
    parameters = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 5, "maximum": 7},
            "list": {"type": "array", "items": {"$ref": "#/properties/n"}, "minItems": 1, "maxItems": 2},
            "same": {"$ref": "#/properties/n"},
            "tree": {"$ref": "#/$defs/Node"},
            "self": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
        },
        "required": ["n", "list", "same"],
        "$defs": {"Node": NODE},
    }
    tools = tool(parameters)
    lark = calls_grammar(call_form(parser, tokenizer), tools.schemas(["f"]), tokenizer, many=False)
    for seed in range(6):
        calls = fold(tool_parsers()[parser](tools), written(tokenizer, compiler, lark, seed)).tool_calls
        check_arguments(json.loads(calls[0].arguments))


def check_arguments(arguments: Mapping[str, Any]) -> None:
    assert arguments["n"] in (5, 6, 7)
    assert arguments["same"] in (5, 6, 7)
    assert set(arguments["list"]) <= {5, 6, 7}
    for inner in arguments.get("self", []):
        check_arguments(inner)


def written(tokenizer: Tokenizer, compiler: GrammarCompiler, lark: str, seed: int) -> str:
    """A random text of the form, as short as it gets: what may end something is preferred."""
    numbers, matcher, out = random.Random(seed), compiler.compile(lark).matcher(), list[int]()
    end = tokenizer.token_to_id("<|im_end|>")
    closers = (b"]", b"}", b")", b"\n", b"</")
    while end not in (now := allowed(tokenizer, matcher)):
        closing = [token for token in now if tokenizer.token_bytes(token) in closers]
        out.append(numbers.choice(closing) if closing and numbers.random() < 0.6 else numbers.choice(now))
        matcher.consume(out[-1:])
        assert len(out) < 3000
    return tokenizer.decode(out, skip_special_tokens=False)


def test_a_tool_that_is_not_strict_takes_any_arguments(tokenizer, takes):
    """With parallel_tool_calls false there is a grammar, and it says nothing of the arguments."""
    parameters = {"type": "object", "properties": {"城市": {"type": "string"}, "n": {"type": "integer"}}}
    tools = tool(parameters)
    texts = {
        "qwen3_coder": coder_call("城市", "北京\n天气"),
        "pythonic": "[f(n=3, 城市='北京', o={'k': [None, (1, \"x\")]})]",
    }
    for parser, text in texts.items():
        free = free_grammar(call_form(parser, tokenizer), tools.strict_schemas(), tokenizer, many=False)
        assert takes(free, text)
        assert fold(tool_parsers()[parser](tools), text).tool_calls[0].name == "f"


def test_parameters_without_a_name(tokenizer, takes):
    tools = tool({"type": "object", "additionalProperties": {"type": "integer"}})
    for parser, good, bad in [
        ("qwen3_coder", coder_call("x", "12"), coder_call("x", "a")),
        ("pythonic", "[f(x=12)]", "[f(x='a')]"),
    ]:
        lark = calls_grammar(call_form(parser, tokenizer), tools.schemas(["f"]), tokenizer, many=False)
        assert takes(lark, good)
        assert not takes(lark, bad)
        assert fold(tool_parsers()[parser](tools), good).tool_calls[0].arguments == '{"x": 12}'


def test_names_that_python_would_not_take(tokenizer, takes):
    tools = tool({"type": "object", "properties": {"x-y": {"type": "string"}}, "required": ["x-y"]})
    lark = calls_grammar(call_form("pythonic", tokenizer), tools.schemas(["f"]), tokenizer, many=False)
    assert takes(lark, '[f(x-y="a")]')
    assert fold(tool_parsers()["pythonic"](tools), '[f(x-y="a")]').tool_calls[0].arguments == '{"x-y": "a"}'


class Model:
    key, tool_call_parser, reasoning_parser = "m", "qwen3_coder", None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer


@pytest.mark.parametrize(
    "more",
    [
        {"minProperties": 1},
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"required": ["b"]},
        {"properties": {"a": {"type": "string", "pattern": "^a|b$"}}},
        {"properties": {"a": {"allOf": [{"type": "string"}, {"maxLength": 3}]}}},
    ],
)
def test_what_bare_values_cannot_be_held_to(more, tokenizer):
    """A forced call is JSON then; a strict one of the model's own is refused."""
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, **more}}
    forced = answer_format(Model(tokenizer), ChatOptions(tools=[{"function": function}], tool_choice="required"), "")
    assert fold(forced.make_parser(), '[{"name": "f", "parameters": {"a": "b"}}]').tool_calls[0].name == "f"
    strict = ChatOptions(tools=[{"function": {**function, "strict": True}}])
    with pytest.raises(InvalidParamsError, match="one by one") as caught:
        answer_format(Model(tokenizer), strict, "")
    assert caught.value.param == "tools"


@pytest.mark.parametrize("parser", [*BY_NAME, "hermes"])
def test_many_tools_with_long_descriptions(parser, tokenizer, compiler):
    """What a schema says to people is no part of the form; a property may be called so all the same."""

    def parameters(number: int) -> dict[str, Any]:
        names = ["title", "description", *(f"p{number}_{place}" for place in range(8))]
        properties = {name: {"type": "string", "title": name, "description": "说明" * 200} for name in names}
        return {"type": "object", "properties": properties, "required": ["description"], "description": "x" * 999}

    tools = ToolSet([{"function": {"name": f"t{number}", "parameters": parameters(number)}} for number in range(128)])
    lark = calls_grammar(call_form(parser, tokenizer), tools.schemas(list(tools)), tokenizer, many=False)
    assert "说明" not in lark
    assert "description" in lark
    compiler.compile(lark)


def test_large_definitions_are_not_written_a_thousand_times(tokenizer):
    defs = {f"D{number}": {"type": "string", "enum": ["值" * 50]} for number in range(2000)}
    properties = {f"p{number}": {"type": "array", "items": {"$ref": "#/$defs/D1"}} for number in range(1000)}
    parameters = {"type": "object", "properties": properties, "$defs": defs}
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    began = time.process_time()
    with pytest.raises(InvalidParamsError, match="together") as caught:
        answer_format(Model(tokenizer), ChatOptions(tools=tools, tool_choice="required"), "")
    assert caught.value.param == "tools"
    call = coder_call("p7", '["a"]')
    assert fold(answer_format(Model(tokenizer), ChatOptions(tools=tools), "").make_parser(), call).tool_calls
    assert time.process_time() - began < 3.0
