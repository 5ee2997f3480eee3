"""Bodies on their own: defaults of the model, OpenAI's shapes of inputs, what counts as asking for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from carrel.errors import InvalidParamsError
from carrel.params import RequestOutputKind, SamplingParams
from carrel_server.sampling_defaults import read_sampling_defaults
from carrel_server.schemas.base import as_list
from carrel_server.schemas.chat import ChatBody
from carrel_server.schemas.completion import CompletionBody
from carrel_server.schemas.embedding import EmbeddingBody
from carrel_server.schemas.sampling import SAMPLING_FIELDS, SamplingBody
from hypothesis import given
from hypothesis import strategies as st

MESSAGES = [{"role": "user", "content": "你好"}]


def chat(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"messages": MESSAGES, **fields})


def test_every_sampling_parameter_can_be_sent() -> None:
    assert set(SamplingBody.model_fields) >= SAMPLING_FIELDS
    assert set(SamplingParams.__dataclass_fields__) - SAMPLING_FIELDS == {"max_tokens", "logprobs", "output_kind"}


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


def test_the_newer_spelling_of_the_limit_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).token_limit == 7
    assert chat().token_limit is None


def test_template_kwargs_from_the_weakest_to_the_strongest() -> None:
    defaults = {"enable_thinking": True, "x": 1}
    assert chat(enable_thinking=False).template_kwargs(defaults) == {"enable_thinking": False, "x": 1}
    sent = chat(enable_thinking=False, chat_template_kwargs={"enable_thinking": True, "x": 2})
    assert sent.template_kwargs(defaults) == {"enable_thinking": True, "x": 2}
    with pytest.raises(InvalidParamsError, match="add_generation_prompt"):
        chat(chat_template_kwargs={"add_generation_prompt": False}).template_kwargs({})


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
