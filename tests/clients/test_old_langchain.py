"""LangChain as tutorials of 2023 and 2024 use it: ``VLLMOpenAI``, ``LLMChain``, ``PromptTemplate``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_classic.chains import LLMChain
from langchain_core.prompts import PromptTemplate
from reading_room import API_KEY, CHAT, LOANS, LOANS_ANSWER

pytestmark = [
    # langchain_community says at import that it is no longer maintained; tutorials use it all the same.
    pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning"),
    # Its VLLMOpenAI reads the SDK's answers with a method of pydantic 1.
    pytest.mark.filterwarnings("ignore:The `dict` method is deprecated:pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.fixture
def model(url: str) -> Iterator[Any]:
    from langchain_community.llms import VLLMOpenAI

    made = VLLMOpenAI(
        openai_api_key=API_KEY, openai_api_base=url + "/v1", model_name=CHAT, max_tokens=200, temperature=0
    )
    yield made
    made.client._client.close()


def test_vllm_openai(model: Any) -> None:
    assert model.invoke(LOANS) == LOANS_ANSWER
    assert "".join(model.stream(LOANS)) == LOANS_ANSWER
    assert model.batch([LOANS, "ping"]) == [LOANS_ANSWER, "pong"]
    result = model.generate([LOANS, LOANS])
    assert [generations[0].text for generations in result.generations] == [LOANS_ANSWER] * 2
    assert result.llm_output["token_usage"]["total_tokens"] > 0


def test_llm_chain(model: Any) -> None:
    prompt = PromptTemplate(template="{question}", input_variables=["question"])
    with pytest.warns(DeprecationWarning, match="LLMChain"):  # "use prompt | llm"
        chain = LLMChain(prompt=prompt, llm=model)
    assert chain.invoke({"question": LOANS})["text"] == LOANS_ANSWER
    assert (prompt | model).invoke({"question": LOANS}) == LOANS_ANSWER
