"""Every format, every split: the same calls, nothing lost, nothing raised."""

from __future__ import annotations

import json

import pytest
from answers import ANSWERS, TOOLS, fold, make, said
from carrel import LLM
from carrel.errors import InvalidParamsError
from carrel.parsers.registry import resolve_reasoning_parser, resolve_tool_parser, tool_parsers
from hypothesis import given, settings
from hypothesis import strategies as st

IDS = [f"{answer.parser}-{number}" for number, answer in enumerate(ANSWERS)]
BROKEN = st.sampled_from(ANSWERS)
SIGNS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        "name",
        ":",
        ",",
        "now",
        "(",
        ")",
        "=",
        " ",
        "\n",
        "<function=",
        "<parameter=",
        ">",
        "</parameter>",
        "</function>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "'",
        "arguments",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "```json",
        "1",
        "null",
        "你好",
        "🎉",
        ";",
    ]
)


@pytest.mark.parametrize("answer", ANSWERS, ids=IDS)
def test_whole_in_two_and_one_character_at_a_time(answer):
    expected = (answer.content, answer.calls)
    assert said(fold(make(answer.parser), [answer.text])) == expected
    assert said(fold(make(answer.parser), answer.text)) == expected
    for cut in range(len(answer.text)):
        assert said(fold(make(answer.parser), [answer.text[:cut], answer.text[cut:]])) == expected


def cut(data, text):
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_split_gives_the_same_message(data):
    answer = data.draw(BROKEN)
    message = fold(make(answer.parser), cut(data, answer.text))
    assert said(message) == (answer.content, answer.calls)
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_cut_off_and_broken_answers_never_raise_and_do_not_depend_on_the_split(data):
    answer = data.draw(BROKEN)
    text = answer.text[: data.draw(st.integers(0, len(answer.text)))] + data.draw(
        st.sampled_from(["", "}", "oops", '"'])
    )
    whole = fold(make(answer.parser), [text])
    pieces = fold(make(answer.parser), cut(data, text))
    assert [(c.name, c.arguments) for c in whole.tool_calls] == [(c.name, c.arguments) for c in pieces.tool_calls]
    assert whole.content == pieces.content
    if not whole.tool_calls:
        assert whole.content == text


@settings(max_examples=600, deadline=None)
@given(name=st.sampled_from(sorted(tool_parsers())), signs=st.lists(SIGNS, max_size=24), data=st.data())
def test_noise_is_text(name, signs, data):
    text = "".join(signs)
    whole, pieces = fold(make(name), [text]), fold(make(name), cut(data, text))
    assert (whole.content, [(c.name, c.arguments) for c in whole.tool_calls]) == (
        pieces.content,
        [(c.name, c.arguments) for c in pieces.tool_calls],
    )
    if not whole.tool_calls:
        assert whole.content == text


@pytest.mark.parametrize(
    "text",
    [
        "<｜tool▁call▁begin｜><｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>\n```json\n{}\n```<｜tool▁call▁end｜>",
    ],
)
def test_a_call_of_nothing_is_text(text):
    for pieces in ([text], list(text)):
        answer = fold(make("deepseek_v3"), pieces)
        assert (answer.content, answer.tool_calls) == (text, [])


ARGUMENTS = json.dumps({"content": "一二三四五" * 8}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("hermes", '<tool_call>{"name": "write_file", "arguments": ' + ARGUMENTS + "}"),
        ("llama3_json", '{"name": "write_file", "parameters": ' + ARGUMENTS + "}"),
        ("mistral", "[TOOL_CALLS]write_file[ARGS]" + ARGUMENTS),
        ("deepseek_v31", "<｜tool▁call▁begin｜>write_file<｜tool▁sep｜>" + ARGUMENTS),
        ("pythonic", "[write_file(content='" + "一二三四五" * 8 + "')]"),
        ("qwen3_coder", "<function=write_file><parameter=content>" + "一二三四五" * 8 + "</parameter></function>"),
        ("json", '[{"name": "write_file", "parameters": ' + ARGUMENTS + "}]"),
    ],
)
def test_arguments_come_as_they_are_written(parser, text):
    """A character of the value goes out with the character that was written."""
    ours = make(parser)
    for char in text:
        new = "".join(piece.arguments for piece in ours.push(char).tool_calls)
        assert char not in "一二三四五" or new.endswith(char)


def test_a_call_cut_off_behind_its_name_stays_one():
    message = fold(make("hermes"), '<tool_call>{"name": "now", "arguments": {"a": "b')
    assert [(c.name, c.arguments) for c in message.tool_calls] == [("now", '{"a": "b')]
    assert message.content == ""
    message = fold(make("hermes"), '<tool_call>{"name": "no')
    assert message.tool_calls == []
    assert message.content == '<tool_call>{"name": "no'


def test_ids():
    ids = [call.id for call in fold(make("hermes"), '<tool_call>{"name": "now"}</tool_call>' * 2).tool_calls]
    assert len(set(ids)) == 2
    assert all(id_.startswith("call_") and len(id_) == 29 for id_ in ids)
    (call,) = fold(make("mistral"), "[TOOL_CALLS]now{}").tool_calls
    assert len(call.id) == 9
    assert call.id.isalnum()


def test_deep_nesting_is_text_and_no_recursion_error():
    for name, text in [
        ("pythonic", "[now(a=" + "[" * 5000),
        ("hermes", '<tool_call>{"name": "now", "a": ' + "[" * 5000),
    ]:
        assert fold(make(name), [text]).tool_calls[0].name == "now"
    coder = "<function=write_file><parameter=meta>" + "[" * 5000 + "</parameter></function>"
    assert fold(make("qwen3_coder"), [coder]).tool_calls[0].name == "write_file"


def test_long_arguments_take_linear_time():
    arguments = json.dumps({"content": "字" * 200_000}, ensure_ascii=False)
    message = fold(make("hermes"), '<tool_call>{"name": "write_file", "arguments": ' + arguments + "}</tool_call>")
    assert message.tool_calls[0].arguments == arguments


def test_names():
    assert resolve_tool_parser("none", "<tool_call> tools") is None
    assert resolve_tool_parser("deepseek-v31", None) == "deepseek_v31"
    with pytest.raises(InvalidParamsError, match=r"'openai'.*hermes, json.*'none' turns it off"):
        resolve_tool_parser("openai", None)
    with pytest.raises(InvalidParamsError, match=r"--reasoning-parser.*'x'.*deepseek_r1"):
        resolve_reasoning_parser("x", None)
    assert len(TOOLS) == 3


def test_faces_take_the_names(tiny_models):
    with pytest.raises(InvalidParamsError, match="--tool-call-parser"):
        LLM(str(tiny_models("qwen2")), tool_call_parser="gpt")
    with pytest.raises(InvalidParamsError, match="reasoning_parser needs a model"):
        LLM(reasoning_parser="qwen3")
    with LLM(
        str(tiny_models("qwen2")),
        tool_call_parser="hermes",
        reasoning_parser="deepseek-r1",
        kv_cache_memory_bytes=4 << 20,
    ) as llm:
        hosted = llm.host.get(None, "chat")
        assert (hosted.tool_call_parser, hosted.reasoning_parser) == ("hermes", "deepseek_r1")


def test_line_breaks_that_a_model_forgot_to_escape():
    text = '<tool_call>\n{"name": "now", "arguments": {\n\t"代码": "a\n\tb\\n", "b": ["\r\n"]\n}}\n</tool_call>'
    expected = {"代码": "a\n\tb\n", "b": ["\r\n"]}
    for cut in range(len(text)):
        (call,) = fold(make("hermes"), [text[:cut], text[cut:]]).tool_calls
        assert json.loads(call.arguments) == expected
