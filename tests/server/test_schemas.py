"""Bodies on their own: defaults of the model, OpenAI's shapes of inputs, what counts as asking for nothing."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from carrel.errors import InvalidParamsError
from carrel.params import RequestOutputKind, SamplingParams
from carrel.structured_params import StructuredOutputsParams
from carrel_server.sampling_defaults import read_sampling_defaults
from carrel_server.schemas.base import Body, as_list
from carrel_server.schemas.chat import ChatBody
from carrel_server.schemas.completion import CompletionBody
from carrel_server.schemas.embedding import EmbeddingBody
from carrel_server.schemas.ollama import OllamaChatBody
from carrel_server.schemas.rerank import RerankBody
from carrel_server.schemas.responses import ResponsesBody
from carrel_server.schemas.sampling import SAMPLING_FIELDS, SamplingBody
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

MESSAGES = [{"role": "user", "content": "你好"}]


def chat(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"messages": MESSAGES, **fields})


def test_every_sampling_parameter_can_be_sent() -> None:
    assert set(SamplingBody.model_fields) >= SAMPLING_FIELDS
    made = {"max_tokens", "logprobs", "output_kind", "structured_outputs"}
    assert {field.name for field in fields(SamplingParams)} - SAMPLING_FIELDS == made


def test_what_is_sent_wins_over_the_models_defaults(tmp_path: Path) -> None:
    sampling = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    config = {**sampling, "do_sample": True, "min_p": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    defaults = read_sampling_defaults(tmp_path)
    assert defaults == sampling
    params = chat(temperature=0, top_k=None).sampling_params(defaults, max_tokens=5, logprobs=None)
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.0, 20, 0.8, 5)
    assert params.output_kind is RequestOutputKind.FINAL_ONLY


def test_a_model_without_defaults(tmp_path: Path) -> None:
    assert read_sampling_defaults(tmp_path) == {}
    params = chat(stream=True).sampling_params({}, max_tokens=None, logprobs=2)
    assert (params.temperature, params.max_tokens, params.logprobs) == (1.0, None, 2)
    assert params.output_kind is RequestOutputKind.DELTA


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (EmbeddingBody, {"input": [1, *["a"] * 100]}),
        (EmbeddingBody, {"input": [[1, *["a"] * 100]] * 100}),
        (CompletionBody, {"prompt": [1, *["a"] * 100]}),
        (CompletionBody, {"prompt": "a", "stop": [1] * 100}),
        (ChatBody, {"messages": [1] * 100}),
        (ChatBody, {"messages": MESSAGES, "allowed_token_ids": ["a"] * 100}),
        (ChatBody, {"messages": MESSAGES, "documents": [1] * 100}),
        (RerankBody, {"query": "a", "documents": [1] * 100}),
        (OllamaChatBody, {"messages": [1] * 100, "options": {"stop": [1] * 100}}),
    ],
)
def test_a_list_ends_at_its_first_wrong_entry(body: type[Body], fields: dict[str, Any]) -> None:
    """To complain of a million entries takes seconds, in which nothing else runs."""
    with pytest.raises(ValidationError) as error:
        body.model_validate(fields)
    assert error.value.error_count() < 10


def test_the_newer_spelling_of_the_limit_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).token_limit == 7
    assert chat().token_limit is None


def test_template_kwargs_from_the_weakest_to_the_strongest() -> None:
    defaults = {"enable_thinking": True, "x": 1}
    off = {"enable_thinking": False, "thinking": False}
    assert chat(enable_thinking=False).template_kwargs(defaults) == {**off, "x": 1}
    assert chat().template_kwargs(defaults) == defaults
    assert chat().template_kwargs(defaults, alias=False) == {**off, "x": 1}
    assert chat(enable_thinking=True).template_kwargs({}, alias=False) == {"enable_thinking": True, "thinking": True}
    sent = chat(enable_thinking=False, chat_template_kwargs={"enable_thinking": True, "x": 2})
    assert sent.template_kwargs(defaults) == {"enable_thinking": True, "x": 2}
    with pytest.raises(InvalidParamsError, match="add_generation_prompt"):
        chat(chat_template_kwargs={"add_generation_prompt": False}).template_kwargs({})


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, True),
        ({"thinking": False}, False),
        ({"thinking": "false"}, False),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}, "enable_thinking": True}, True),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, True),
        ({}, None),
    ],
)
def test_the_ways_to_switch_thinking(fields: dict[str, Any], thinks: bool | None) -> None:
    assert chat(**fields).template_kwargs({}).get("enable_thinking") is thinks


def test_the_effort_reaches_the_template_as_a_word() -> None:
    assert chat(reasoning_effort="high").template_kwargs({})["reasoning_effort"] == "high"
    with pytest.raises(InvalidParamsError, match="reasoning_effort"):
        chat(reasoning_effort="huge").template_kwargs({})
    with pytest.raises(InvalidParamsError, match=r"thinking\.type"):
        chat(thinking={"type": "of cats"}).template_kwargs({})


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "查询", "parameters": {"type": "object"}}}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "other"}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("any", "required"),
        ({"type": "function", "function": {"name": "查询"}}, {"type": "function", "function": {"name": "查询"}}),
        ({"type": "function", "name": "other"}, {"type": "function", "function": {"name": "other"}}),
    ],
)
def test_spellings_of_tool_choice(choice: Any, expected: Any) -> None:
    use = chat(tools=[TOOL, OTHER], tool_choice=choice).tool_use()
    assert use.choice == expected
    assert [tool["function"]["name"] for tool in use.tools] == ["查询", "other"]


def test_allowed_tools_are_the_only_ones_shown() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "other"}}]}
    use = chat(tools=[TOOL, OTHER], tool_choice={"type": "allowed_tools", "allowed_tools": allowed}).tool_use()
    assert (use.tools, use.choice) == ((OTHER,), "required")


def test_flat_tools_and_nulls_inside_a_tool() -> None:
    flat = {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
    assert chat(tools=[flat]).tool_use().tools == ({"type": "function", "function": {"name": "f"}},)


def test_functions_are_tools_of_long_ago() -> None:
    body = chat(functions=[{"name": "f", "parameters": {"type": "object"}}], function_call={"name": "f"})
    assert body.tool_use().choice == {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": ["f"]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "functions": [{"name": "f"}]}, "functions"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
    ],
)
def test_tools_that_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParamsError) as refused:
        chat(**fields).check()
    assert refused.value.param == param


SCHEMA = {"type": "object", "properties": {"书名": {"type": "string"}}}


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, {"json": SCHEMA}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "name": "x"}}},
            {"json": SCHEMA},
        ),
        ({"structured_outputs": {"regex": "[是否]", "json": None, "json_object": False}}, {"regex": "[是否]"}),
        ({"structured_outputs": {"substrings_of": ["一段原文"]}}, {"substrings_of": ["一段原文"]}),
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"guided_json": json.dumps(SCHEMA)}, {"json": json.dumps(SCHEMA)}),
        ({"guided_choice": ["是", "否"]}, {"choice": ["是", "否"]}),
        ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
        ({"extra_body": {"guided_regex": "a+"}}, {"regex": "a+"}),
    ],
)
def test_spellings_of_a_form(fields: dict[str, Any], form: dict[str, Any] | None) -> None:
    expected = None if form is None else StructuredOutputsParams(**form)
    assert chat(**fields).sampling_params({}, max_tokens=5, logprobs=None).structured_outputs == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs"),
    ],
)
def test_forms_that_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParamsError) as refused:
        chat(**fields).check()
        chat(**fields).form()
    assert refused.value.param == param


@pytest.mark.parametrize("name", ["best_of", "prompt_logprobs", "use_beam_search"])
def test_what_is_known_at_the_end_is_not_streamed(name: str) -> None:
    with pytest.raises(InvalidParamsError) as refused:
        chat(stream=True, **{name: 2 if name != "use_beam_search" else True}).check()
    assert refused.value.param == name


def test_numbers_in_strings() -> None:
    body = chat(temperature="0.8", top_k="10", stream="true", logit_bias={"5": "-1.5"}, logprobs="true")
    assert (body.temperature, body.top_k, body.stream, body.logit_bias) == (0.8, 10, True, {5: -1.5})


def test_unknown_fields_inside_an_object_are_told_with_their_place() -> None:
    body = chat(stream=True, stream_options={"include_usage": True, "colour": 1}, streaming=True)
    assert body.unknown_fields() == ["streaming", "stream_options.colour"]


def test_the_request_wins_over_its_extra_body() -> None:
    body = chat(extra_body={"top_k": 5, "temperature": 0.1, "foo": 1}, temperature=0.9)
    assert (body.top_k, body.temperature) == (5, 0.9)
    assert body.unknown_fields() == ["foo"]


@given(st.lists(st.integers(0, 9), min_size=1) | st.lists(st.text(), min_size=1) | st.text())
def test_inputs_keep_their_order_and_number(value: Any) -> None:
    expected = [value] if isinstance(value, str) or isinstance(value[0], int) else value
    assert as_list(value) == expected
    assert CompletionBody.model_validate({"prompt": value}).prompts == expected
    assert EmbeddingBody.model_validate({"input": value}).inputs == expected


def test_a_responses_fields_that_mean_nothing_are_told() -> None:
    fields: dict[str, Any] = {"text": {"verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"}}
    body = ResponsesBody.model_validate({"input": "x", **fields, "include": ["file_search_call.results"], "foo": 1})
    assert body.unknown_fields() == ["foo", "include.file_search_call.results", "text.verbosity", "reasoning.summary"]


def test_an_id_is_short() -> None:
    with pytest.raises(ValidationError, match="128"):
        chat(request_id="x" * 1000)
