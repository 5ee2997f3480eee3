"""The fields that every adapter has: which way in, what belongs to it, what is refused before anything is opened."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from carrel.structured_params import StructuredOutputsParams
from carrel_client.tool_use import chat_options
from langchain_carrel import CarrelEmbeddings, CarrelRerank, ChatCarrel
from llama_index.embeddings.carrel import CarrelEmbedding
from llama_index.llms.carrel import Carrel
from llama_index.postprocessor.carrel import CarrelRerank as NodeRerank

ADAPTERS = [ChatCarrel, CarrelEmbeddings, CarrelRerank, Carrel, CarrelEmbedding, NodeRerank]
CHAT_ADAPTERS = [ChatCarrel, Carrel]
URL = "http://127.0.0.1:1"
TOOL = {"type": "function", "function": {"name": "查天气"}}


class Shared:
    """Stands where a carrel.LLM would; making an adapter must not touch its engine."""

    host = None


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give one of model="),
        ({"llm": Shared(), "base_url": URL}, "not both"),
        ({"base_url": "127.0.0.1:8000"}, "must begin with http://"),
        ({"llm": "starter/reader"}, r"must be a carrel\.LLM"),
        ({"model": "a", "api_key": "k"}, "api_key has a meaning only with base_url="),
        ({"model": "a", "max_retries": 0}, "max_retries has a meaning only with base_url="),
        ({"llm": Shared(), "timeout": 3.0}, "timeout has a meaning only with base_url="),
        ({"llm": Shared(), "engine_options": {"seed": 1}}, "engine_options has a meaning only with model="),
        ({"base_url": URL, "engine_options": {"seed": 1}}, "engine_options has a meaning only with model="),
        ({"model": "a", "engine_options": {"block_size": 0}}, "block_size must be at least 1"),
        ({"model": "a", "modle": "b"}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_way_in_is_refused(adapter: type[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter(**fields)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_engine_option_that_does_not_exist_is_a_type_error(adapter: type[Any]) -> None:
    with pytest.raises(TypeError, match="max_modle_len"):
        adapter(model="a", engine_options={"max_modle_len": 512})


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("fields", [{"model": "no/such-model"}, {"llm": Shared()}, {"base_url": URL, "model": "a"}])
def test_making_and_closing_opens_nothing(adapter: type[Any], fields: dict[str, Any]) -> None:
    made = adapter(**fields)
    made.close()
    made.close()


@pytest.mark.parametrize("adapter", CHAT_ADAPTERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"top_p": 0}, "top_p must be in"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"stop": [""]}, "stop must not hold an empty string"),
    ],
)
def test_a_sampling_option_out_of_range_is_refused_at_once(
    adapter: type[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapter(base_url=URL, **options)


@pytest.mark.parametrize("adapter", CHAT_ADAPTERS)
def test_options_of_one_call_stand_over_the_adapters_own(adapter: type[Any]) -> None:
    chat = adapter(base_url=URL, model="a", temperature=0.5, stop=[], chat_template_kwargs={"enable_thinking": False})
    request = chat.text_request("续写", {"temperature": 0, "max_tokens": 5, "top_k": None, "model": "b"})
    assert request.options == {"temperature": 0, "max_tokens": 5}
    assert request.model == "b"
    assert request.chat.chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize("adapter", CHAT_ADAPTERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "Unknown option temprature; there are temperature"),
        ({"functions": [TOOL]}, "Unknown option functions"),
        ({"tools": [len]}, r"tools\[0\] must be an object with a function"),
        ({"tools": [TOOL], "tool_choice": "查天汽"}, "tool_choice names '查天汽', which is none of the tools"),
        (
            {"tools": [TOOL], "tool_choice": 1},
            "tool_choice must be a word, a tool's name, an object or a bool, got int",
        ),
        ({"tool_choice": "any"}, "tool_choice is required, and there are no tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format must be"),
        ({"response_format": "json"}, "response_format must be"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs has no 'jsn'; there are json, json_object"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "Give exactly one of json"),
        ({"structured_outputs": ["a"]}, "structured_outputs must be StructuredOutputsParams or a dict, got list"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "give one of them"),
        ({"structured_outputs": {"regex": "a"}, "tools": [TOOL], "tool_choice": "any"}, "tool_choice asks for a call"),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "does not go with structured_outputs"),
    ],
)
def test_a_wrong_option_of_a_call_is_refused(adapter: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter(base_url=URL).text_request([{"role": "user", "content": "你好"}], options)


@pytest.mark.parametrize("adapter", CHAT_ADAPTERS)
def test_tools_need_a_conversation(adapter: type[Any]) -> None:
    with pytest.raises(ValueError, match="Tools are told by the chat template"):
        adapter(base_url=URL).text_request("你好", {"tools": [TOOL]})


@pytest.mark.parametrize("adapter", CHAT_ADAPTERS)
def test_forms_have_one_spelling_and_a_calls_form_stands_over_the_adapters_own(adapter: type[Any]) -> None:
    schema = {"type": "object", "properties": {"城市": {"type": "string"}}}
    wrapped = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    chat = adapter(base_url=URL, structured_outputs=StructuredOutputsParams(choice=["是", "否"]))
    for options, form in (
        ({}, {"choice": ("是", "否")}),
        ({"response_format": wrapped}, {"json": schema}),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"structured_outputs": {"regex": "[0-9]+"}}, {"regex": "[0-9]+"}),
    ):
        assert chat.text_request("你好", options).options["structured_outputs"] == form
    assert "structured_outputs" not in chat.text_request("你好", {"response_format": {"type": "text"}}).options


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        (False, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("any", "required"),
        ("required", "required"),
        (True, "required"),
        ("查天气", {"type": "function", "function": {"name": "查天气"}}),
        ({"type": "function", "function": {"name": "查天气"}}, {"type": "function", "function": {"name": "查天气"}}),
    ],
)
def test_spellings_of_a_tool_choice(choice: Any, expected: Any) -> None:
    assert chat_options({"tools": [TOOL], "tool_choice": choice}).tool_choice == expected


def test_a_tool_with_the_name_of_a_choice_is_meant() -> None:
    tool = {"type": "function", "function": {"name": "any"}}
    assert chat_options({"tools": [tool], "tool_choice": "any"}).forced_tools == ("any",)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_key_is_never_shown(adapter: type[Any]) -> None:
    made = adapter(base_url=URL, api_key="secret-key")
    assert "secret-key" not in repr(made)
    assert "secret-key" not in str(made.model_dump())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("langchain_carrel", {"llama_index", "torch"}),
        ("llama_index.llms.carrel", {"langchain_core", "torch"}),
        ("carrel_client", {"llama_index", "langchain_core", "torch", "httpx"}),
    ],
)
def test_a_framework_loads_neither_the_other_one_nor_torch(module: str, absent: set[str]) -> None:
    code = f"import {module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert absent & set(loaded) == set()
