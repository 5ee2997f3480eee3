"""Answers held to a form over HTTP: calls that are forced, JSON, regular expressions, choices, grammars."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from dictated import TOOLS, assembled, choice, hermes, post, refusal, stream, thought

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"书名": {"type": "string", "maxLength": 20}, "年份": {"type": "integer"}},
    "required": ["书名", "年份"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "book", "schema": SCHEMA, "strict": True}}
BOOK = '{"书名": "红楼梦", "年份": 1791}'
LIMIT: dict[str, Any] = {"max_tokens": 200, "enable_thinking": False}  # off its script the model may think for ever
THINKING: dict[str, Any] = {"max_tokens": 200}


def function(call: dict[str, Any]) -> tuple[str, Any]:
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{**call, "id": "…"} for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls} if calls else message


@pytest.mark.parametrize("written", ["我不想查。", hermes("search", {"query": "借书"}), hermes("nobody", {"x": 1})])
def test_a_forced_call_is_held_to_the_schema(scribe: httpx.Client, written: str) -> None:
    answer = choice(scribe, written, tools=TOOLS, tool_choice="required", **LIMIT)
    assert answer["finish_reason"] == "tool_calls"
    (name, arguments), *_ = map(function, answer["message"]["tool_calls"])
    assert isinstance(arguments["城市" if name == "查天气" else "query"], str)
    if "search" in written:
        assert (name, arguments) == ("search", {"query": "借书"})


def test_a_named_call_ends_by_stop(scribe: httpx.Client) -> None:
    """As vLLM and OpenAI have it: the caller knows already."""
    fields = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "查天气"}}, **LIMIT}
    answer = choice(scribe, "我不想查。", **fields)
    assert answer["finish_reason"] == "stop"
    (call,) = answer["message"]["tool_calls"]
    name, arguments = function(call)
    assert name == "查天气" and isinstance(arguments["城市"], str)
    chunks = stream(scribe, "我不想查。", **fields)
    assert without_ids(assembled(chunks)) == without_ids(answer["message"])
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_forced_call_after_thoughts(scribe: httpx.Client) -> None:
    written = thought("先想。", hermes("search", {"query": "借书"}))
    message = choice(scribe, written, tools=TOOLS, tool_choice="required", **THINKING)["message"]
    assert message["reasoning"] == "先想。"
    assert function(message["tool_calls"][0]) == ("search", {"query": "借书"})


def test_a_forced_function_of_long_ago(scribe: httpx.Client) -> None:
    functions = [tool["function"] for tool in TOOLS]
    answer = choice(scribe, "不。", functions=functions, function_call={"name": "search"}, **LIMIT)
    assert answer["finish_reason"] == "stop"
    assert answer["message"]["function_call"]["name"] == "search"
    assert "query" in json.loads(answer["message"]["function_call"]["arguments"])


def test_allowed_tools(scribe: httpx.Client) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "search"}}]}
    fields = {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}, **LIMIT}
    calls = choice(scribe, "不。", **fields)["message"]["tool_calls"]
    assert {call["function"]["name"] for call in calls} == {"search"}


def test_strict_arguments_when_the_model_chose_to_call(scribe: httpx.Client) -> None:
    strict = [{"type": "function", "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    wrong = hermes("查天气", {"城市": 5, "日期": "x"})
    (call,) = choice(scribe, wrong, tools=strict, **LIMIT)["message"]["tool_calls"]
    assert isinstance(function(call)[1]["城市"], str)
    assert choice(scribe, "不用查。", tools=strict, **LIMIT)["message"]["content"] == "不用查。"


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": JSON_SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"extra_body": {"guided_json": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
    ],
)
def test_a_schema(scribe: httpx.Client, fields: dict[str, Any]) -> None:
    answer = choice(scribe, BOOK, **fields, **LIMIT)
    assert json.loads(answer["message"]["content"]) == {"书名": "红楼梦", "年份": 1791}
    assert answer["finish_reason"] == "stop"
    forced = json.loads(choice(scribe, "我推荐红楼梦。", **fields, **LIMIT)["message"]["content"])
    assert set(forced) == {"书名", "年份"} and isinstance(forced["年份"], int)


def test_any_object(scribe: httpx.Client) -> None:
    fields = {"response_format": {"type": "json_object"}, **LIMIT}
    assert json.loads(choice(scribe, BOOK, **fields)["message"]["content"])["书名"] == "红楼梦"
    assert isinstance(json.loads(choice(scribe, "不。", **fields)["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[是否]"}, "[是否]"),
        ({"structured_outputs": {"regex": r"\d{4}年"}}, r"\d{4}年"),
        ({"guided_choice": ["红楼梦", "西游记"]}, "红楼梦|西游记"),
        ({"structured_outputs": {"choice": ["甲", "乙"]}}, "甲|乙"),
        ({"structured_outputs": {"grammar": 'start: "第" /[0-9]+/ "本"'}}, r"第\d+本"),
        ({"guided_grammar": 'root ::= "yes" | "no"'}, "yes|no"),
    ],
)
def test_other_forms(scribe: httpx.Client, fields: dict[str, Any], pattern: str) -> None:
    answer = choice(scribe, "我想说别的。", **fields, **LIMIT)
    if answer["finish_reason"] == "stop":
        assert re.fullmatch(pattern, answer["message"]["content"])
    whole = answer["message"]["content"]
    assert assembled(stream(scribe, "我想说别的。", **fields, **LIMIT))["content"] == whole


def test_substrings_of_given_texts(scribe: httpx.Client) -> None:
    text = "每位读者最多可以借十本书,借期三十天。"
    fields = {"structured_outputs": {"substrings_of": [text]}, **LIMIT}
    assert choice(scribe, "借十本书", **fields)["message"]["content"] == "借十本书"
    assert choice(scribe, "借十本好书", **fields)["message"]["content"] in text


def test_a_form_for_the_words_and_tools_besides(scribe: httpx.Client) -> None:
    """OpenAI's ``parse`` sends both: the model calls a tool, or answers in the form."""
    fields: dict[str, Any] = {"tools": TOOLS, "response_format": JSON_SCHEMA, **LIMIT}
    call = hermes("search", {"query": "借书"})
    assert function(choice(scribe, call, **fields)["message"]["tool_calls"][0]) == ("search", {"query": "借书"})
    assert json.loads(choice(scribe, BOOK, **fields)["message"]["content"])["年份"] == 1791


def test_a_form_leaves_thoughts_alone(scribe: httpx.Client) -> None:
    message = choice(scribe, thought("先想{一}想。", BOOK), response_format=JSON_SCHEMA, **THINKING)["message"]
    assert message["reasoning"] == "先想{一}想。" and json.loads(message["content"])["年份"] == 1791


def test_logprobs_under_a_form(scribe: httpx.Client) -> None:
    answer = post(scribe, BOOK, response_format=JSON_SCHEMA, logprobs=True, top_logprobs=3, **LIMIT)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) == answer["usage"]["completion_tokens"]
    assert all(entry["logprob"] <= 0 for entry in entries)


def test_a_form_of_a_response(scribe: httpx.Client) -> None:
    """The schema stands one level higher in ``text.format``."""
    text = {"format": {"type": "json_schema", "name": "book", "schema": SCHEMA, "strict": True}}
    response = post(scribe, "随便。", "/v1/responses", text=text, max_output_tokens=200, enable_thinking=False)
    assert set(json.loads(response["output"][0]["content"][0]["text"])) == {"书名", "年份"}
    assert response["text"] == text


def test_constraints_on_tokens(scribe: httpx.Client) -> None:
    ids = post(scribe, "甲乙", return_token_ids=True)["choices"][0]["token_ids"]
    barred = choice(scribe, "甲乙", logit_bias={str(ids[0]): -100}, max_tokens=3, return_token_ids=True)
    assert ids[0] not in barred["token_ids"]
    only = post(scribe, "甲乙", allowed_token_ids=ids[:1], max_tokens=3, return_token_ids=True)["choices"][0]
    assert set(only["token_ids"]) <= {ids[0], *ids[-1:]}
    assert "乙" not in choice(scribe, "甲乙", bad_words=["乙"], max_tokens=8)["message"]["content"]


def test_beams(client: httpx.Client, scribe: httpx.Client) -> None:
    answer = post(
        client, "甲乙丙", use_beam_search=True, n=2, max_tokens=6, ignore_eos=True, temperature=0.7, top_p=0.9
    )
    first, second = (each["message"]["content"] for each in answer["choices"])
    assert first != second
    assert [each["finish_reason"] for each in answer["choices"]] == ["length", "length"]
    assert answer["usage"]["completion_tokens"] == 11, "one beam in the first round, two in each after it"
    for name, value in {"stop": "x", "presence_penalty": 1, "skip_special_tokens": False, "best_of": 2}.items():
        assert refusal(scribe, use_beam_search=True, **{name: value})["param"] == name
    assert refusal(scribe, use_beam_search=True, guided_regex="x")["param"] == "use_beam_search"


def test_best_of(scribe: httpx.Client) -> None:
    answer = post(scribe, "好。", best_of=3, n=1, temperature=1)
    assert [each["message"]["content"] for each in answer["choices"]] == ["好。"]
    assert answer["usage"]["completion_tokens"] > 3, "all that was written counts"


BOMB = "(" * 300 + "a" + "{1,1000})" * 300


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}},
        {"guided_json": "{"},
        {"guided_json": {"$ref": "https://example.com/schema"}},
        {"guided_json": {"type": "object", "properties": {str(i): {"type": "string"} for i in range(50_000)}}},
        {"guided_regex": "(a"},
        {"guided_regex": BOMB},
        {"guided_grammar": "start: nobody"},
        {"guided_grammar": 'start: "a" start start start | "b"\n' * 5000},
        {"structured_outputs": {"grammar": "?"}},
        {"structured_outputs": {"choice": []}},
        {"guided_choice": []},
    ],
)
def test_forms_that_cannot_be_compiled(scribe: httpx.Client, fields: dict[str, Any], streamed: bool) -> None:
    error = refusal(scribe, **fields, stream=streamed)
    assert error["param"] == next(iter(fields)) and error["message"]
    assert error["param"] == "structured_outputs" or "structured_outputs" not in error["message"]


def test_errors_about_other_fields_keep_their_names(scribe: httpx.Client) -> None:
    text = {"response_format": {"type": "json_object"}}
    error = refusal(scribe, **text, structured_outputs={"regex": "a"})
    assert error["param"] == "structured_outputs"
    assert error["message"].startswith("response_format and structured_outputs each ask")
    assert refusal(scribe, **text, tools=TOOLS, tool_choice="required")["param"] == "tool_choice"
    assert refusal(scribe, **text, ignore_eos=True)["param"] == "ignore_eos"
    assert refusal(scribe, **text, temperature=-1)["param"] == "temperature"


def test_a_completion_names_its_field(scribe: httpx.Client) -> None:
    error = refusal(scribe, "/v1/completions", prompt="x", guided_regex="(a")
    assert error["param"] == "guided_regex" and error["message"].startswith("guided_regex: ")


def test_a_tool_whose_schema_cannot_be_compiled(scribe: httpx.Client) -> None:
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "y"}}}},
    }
    assert refusal(scribe, tools=[tool], tool_choice="required")["message"]
