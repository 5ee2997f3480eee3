"""ChatCarrel held to schemas, against a model that writes what a test says, in process and over HTTP."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypedDict

import pytest
from carrel.errors import InvalidParamsError
from carrel.structured_params import StructuredOutputsParams
from langchain_carrel import ChatCarrel
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ConfigDict, Field
from scribe import MARK, call, thought

METHODS = ["json_schema", "function_calling", "json_mode"]


class Book(BaseModel):
    """A book of the library."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(description="书名", max_length=12)
    copies: int = Field(ge=0, le=99)


class BookDict(TypedDict):
    """A book of the library."""

    title: Annotated[str, ..., "书名"]
    copies: Annotated[int, ..., "how many"]


class Shelf(BaseModel):
    """A class that refers to itself."""

    label: str = Field(max_length=8)
    inner: list[Shelf] = Field(max_length=2)


HONGLOU = '{"title": "红楼梦", "copies": 3}'


def chat(way: dict[str, Any], **options: Any) -> ChatCarrel:
    return ChatCarrel(**{"temperature": 0, "max_tokens": 300, **way, **options})


def asked_for(method: str, answer: str = HONGLOU) -> str:
    """What is dictated: a text, or a call with it."""
    return MARK + (call("Book", json.loads(answer)) if method == "function_calling" else answer)


@pytest.mark.parametrize("method", METHODS)
async def test_objects_of_a_class(scribe_way: dict[str, Any], method: Any) -> None:
    async with chat(scribe_way) as model:
        books = model.with_structured_output(Book, method=method)
        expected = Book(title="红楼梦", copies=3)
        assert books.invoke(asked_for(method)) == expected
        assert await books.ainvoke(asked_for(method)) == expected
        assert list(books.stream(asked_for(method)))[-1] == expected
        assert books.batch([asked_for(method)] * 3) == [expected] * 3


@pytest.mark.parametrize("schema", [BookDict, {**Book.model_json_schema(), "title": "Book"}])
@pytest.mark.parametrize("method", METHODS)
def test_dicts(scribe_way: dict[str, Any], schema: Any, method: Any) -> None:
    answer = asked_for(method).replace('"Book"', '"BookDict"' if schema is BookDict else '"Book"')
    with chat(scribe_way) as model:
        books = model.with_structured_output(schema, method=method)
        assert books.invoke(answer) == {"title": "红楼梦", "copies": 3}
        parts = list(books.stream(answer))
    assert parts[-1] == {"title": "红楼梦", "copies": 3}
    assert len(parts) > 2, "the dict came whole"


def test_thoughts_come_before_the_form(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way) as model:
        result = model.with_structured_output(Book, include_raw=True).invoke(MARK + thought("想一想。", HONGLOU))
    assert result["parsed"] == Book(title="红楼梦", copies=3)
    assert result["raw"].additional_kwargs["reasoning_content"].strip() == "想一想。"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_what_the_model_would_rather_say_does_not_matter(scribe_way: dict[str, Any], method: Any) -> None:
    with chat(scribe_way) as model:
        book = model.with_structured_output(Book, method=method).invoke(MARK + thought("", "我不想填表。"))
    assert isinstance(book, Book)


def test_a_class_that_refers_to_itself(scribe_way: dict[str, Any]) -> None:
    answer = '{"label": "甲", "inner": [{"label": "乙", "inner": []}]}'
    with chat(scribe_way) as model:
        shelf = model.with_structured_output(Shelf).invoke(MARK + answer)
    assert shelf == Shelf(label="甲", inner=[Shelf(label="乙", inner=[])])


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_was_cut_off_is_an_error(scribe_way: dict[str, Any], method: Any) -> None:
    with chat(scribe_way, max_tokens=40 if method == "function_calling" else 12) as model:
        books = model.with_structured_output(BookDict, method=method)
        answer = asked_for(method).replace('"Book"', '"BookDict"')
        with pytest.raises(OutputParserException, match="cut off"):
            books.invoke(answer)
        with pytest.raises(OutputParserException, match="cut off"):
            list(books.stream(answer))
        raw = model.with_structured_output(BookDict, method=method, include_raw=True).invoke(answer)
    assert isinstance(raw["raw"], AIMessage)
    assert raw["parsed"] is None
    assert "cut off" in str(raw["parsing_error"])


def test_json_that_does_not_fit_is_told_beside_the_raw_answer(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way) as model:
        result = model.with_structured_output(Book, method="json_mode", include_raw=True).invoke(MARK + '{"title": 1}')
    assert result["parsed"] is None
    assert isinstance(result["parsing_error"], OutputParserException)


def test_strict_asks_for_every_property_and_no_other() -> None:
    class Loose(BaseModel):
        title: str
        note: str = ""

    model = ChatCarrel(base_url="http://127.0.0.1:1")
    for strict, required in ((None, ["title"]), (False, ["title"]), (True, ["title", "note"])):
        bound: Any = model.with_structured_output(Loose, strict=strict).first  # type: ignore[attr-defined]
        schema = bound.kwargs["response_format"]["json_schema"]["schema"]
        assert schema["required"] == required
        assert schema.get("additionalProperties", True) is not (strict is True)


def test_wrong_methods_are_refused() -> None:
    model = ChatCarrel(base_url="http://127.0.0.1:1")
    with pytest.raises(InvalidParamsError, match="method must be json_schema, function_calling, json_mode"):
        model.with_structured_output(Book, method="grammar")  # type: ignore[arg-type]
    with pytest.raises(InvalidParamsError, match="json_mode holds to none"):
        model.with_structured_output(Book, method="json_mode", strict=True)


def test_forms_of_carrels_own(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way, structured_outputs=StructuredOutputsParams(choice=["是", "否"])) as model:
        assert model.invoke(MARK + "否").text == "否"
        assert model.invoke(MARK + "12", structured_outputs={"regex": "[0-9]{2}"}).text == "12"
        assert model.invoke(MARK + "随便说。", response_format={"type": "text"}).text == "随便说。"
        assert "".join(chunk.text for chunk in model.stream(MARK + "是")) == "是"
