"""Carrel with tools and schemas in LlamaIndex, with a model that writes what a test says, in process and over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from carrel import LLM
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ThinkingBlock, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.carrel import Carrel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scribe import MARK, call, thought

THIRD, FIFTH = call("read_shelf", {"number": 3}), call("read_shelf", {"number": 5})
PROMPT = PromptTemplate("{question}")


class Book(BaseModel):
    """A book of the library."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(description="书名", max_length=12)
    copies: int = Field(ge=0, le=99)


HONGLOU = Book(title="红楼梦", copies=3)
DICTATED = MARK + '{"title": "红楼梦", "copies": 3}'


def read_shelf(number: int) -> str:
    """Which books stand on a shelf."""
    return f"第{number}层:《红楼梦》"


SHELF = FunctionTool.from_defaults(read_shelf)


def carrel(way: dict[str, Any], **options: Any) -> Carrel:
    return Carrel(**{"temperature": 0, "max_tokens": 300, **way, **options})


def selected(llm: Carrel, response: ChatResponse) -> list[tuple[str, dict[str, Any]]]:
    selections = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    assert all(selection.tool_id for selection in selections)
    return [(selection.tool_name, selection.tool_kwargs) for selection in selections]


async def test_calls_in_four_ways(scribe_way: dict[str, Any]) -> None:
    question = MARK + thought("先看书架。", f"我看一下。\n{THIRD}\n{FIFTH}")
    options: dict[str, Any] = {"user_msg": question, "allow_parallel_tool_calls": True}
    async with carrel(scribe_way) as llm:
        assert llm.metadata.is_function_calling_model
        responses = [
            llm.chat_with_tools([SHELF], **options),
            await llm.achat_with_tools([SHELF], **options),
            list(llm.stream_chat_with_tools([SHELF], **options))[-1],
            [r async for r in await llm.astream_chat_with_tools([SHELF], **options)][-1],
        ]
        for response in responses:
            assert selected(llm, response) == [("read_shelf", {"number": 3}), ("read_shelf", {"number": 5})]
            assert (response.message.content or "").strip() == "我看一下。"
            (thinking,) = (block for block in response.message.blocks if isinstance(block, ThinkingBlock))
            assert (thinking.content or "").strip() == "先看书架。"
            assert response.raw is not None
            assert response.raw["finish_reason"] == "tool_calls"


def test_a_stream_is_cumulative_and_its_deltas_are_pieces(scribe_way: dict[str, Any]) -> None:
    question = MARK + thought("先看书架。", f"我看一下。{THIRD}")
    with carrel(scribe_way) as llm:
        responses = list(llm.stream_chat_with_tools([SHELF], user_msg=question))
        text = thoughts = ""
        for response in responses:
            text += response.delta or ""
            thoughts += response.additional_kwargs.get("thinking_delta", "")
            assert (response.message.content or "") == text
            blocks = [b.content for b in response.message.blocks if isinstance(b, ThinkingBlock)]
            assert "".join(block or "" for block in blocks) == thoughts
            calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
            assert len(selected(llm, response)) == len(calls) <= 1
        assert text.strip() == "我看一下。"
        assert thoughts.strip() == "先看书架。"
        assert selected(llm, responses[-1]) == [("read_shelf", {"number": 3})]
        assert [response.raw is not None for response in responses].count(True) == 1


def test_forced_one_and_none(scribe_way: dict[str, Any]) -> None:
    with carrel(scribe_way) as llm:
        forced = llm.chat_with_tools([SHELF], user_msg=MARK + thought("不看。", "不。"), tool_required=True)
        assert [name for name, _ in selected(llm, forced)] == ["read_shelf"]
        named = llm.chat_with_tools([SHELF], user_msg=MARK + THIRD, tool_choice="read_shelf", strict=True)
        assert selected(llm, named) == [("read_shelf", {"number": 3})]
        single = llm.chat_with_tools([SHELF], user_msg=MARK + THIRD + "\n" + FIFTH)
        assert selected(llm, single) == [("read_shelf", {"number": 3})]
        free = llm.chat_with_tools([SHELF], user_msg=MARK + "不看。")
        assert free.message.content == "不看。"
        with pytest.raises(ValueError, match="called no tool; tool_required=True"):
            llm.get_tool_calls_from_response(free)
        assert llm.chat_with_tools([], user_msg=MARK + "没有工具。").message.content == "没有工具。"


def test_a_call_that_was_cut_off_is_an_error(scribe_way: dict[str, Any]) -> None:
    with carrel(scribe_way) as llm:
        whole = llm.chat_with_tools([SHELF], user_msg=MARK + FIFTH, tool_required=True)
        assert whole.raw is not None
        most = whole.raw["usage"]["completion_tokens"] - 8
        cut = llm.chat_with_tools([SHELF], user_msg=MARK + FIFTH, tool_required=True, max_tokens=most)
        with pytest.raises(ValueError, match=r"call of read_shelf was cut off.*max_tokens"):
            llm.get_tool_calls_from_response(cut)


def test_a_tool_is_called_and_its_result_goes_back(scribe_way: dict[str, Any]) -> None:
    with carrel(scribe_way) as llm:
        question = ChatMessage(MARK + thought("看第三层。", THIRD))
        assert llm.predict_and_call([SHELF], user_msg=question).response == "第3层:《红楼梦》"
        asked = llm.chat_with_tools([SHELF], user_msg=question).message
        (made,) = (block for block in asked.blocks if isinstance(block, ToolCallBlock))
        result = ChatMessage(
            read_shelf(3), role=MessageRole.TOOL, additional_kwargs={"tool_call_id": made.tool_call_id}
        )
        answer = llm.chat_with_tools([SHELF], chat_history=[question, asked, result])
        assert answer.message.content == "工具说:第3层:《红楼梦》"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of LlamaIndex's workflows
async def test_an_agent_runs(scribe_way: dict[str, Any]) -> None:
    async with carrel(scribe_way) as llm:
        agent = FunctionAgent(tools=[SHELF], llm=llm, system_prompt="你是图书管理员。")
        answer: Any = await agent.run(MARK + thought("看第三层。", THIRD))
    assert str(answer) == "工具说:第3层:《红楼梦》"
    assert [one.tool_name for one in answer.tool_calls] == ["read_shelf"]


async def test_objects_of_a_class(scribe_way: dict[str, Any]) -> None:
    async with carrel(scribe_way) as llm:
        assert llm.structured_predict(Book, PROMPT, question=DICTATED) == HONGLOU
        assert await llm.astructured_predict(Book, PROMPT, question=DICTATED) == HONGLOU
        parts = list(llm.stream_structured_predict(Book, PROMPT, question=DICTATED))
        assert parts[-1] == HONGLOU
        assert len(parts) > 2
        stream = await llm.astream_structured_predict(Book, PROMPT, question=DICTATED)
        assert [part async for part in stream][-1] == HONGLOU
        assert isinstance(llm.structured_predict(Book, PROMPT, question=MARK + thought("不想填。", "不。")), Book)
        with pytest.raises(ValidationError):
            llm.structured_predict(Book, PROMPT, {"max_tokens": 10}, question=DICTATED)


@pytest.mark.filterwarnings("ignore:The `json` method is deprecated")  # LlamaIndex's own code calls it
async def test_a_structured_llm(scribe_way: dict[str, Any]) -> None:
    async with carrel(scribe_way) as llm:
        books = llm.as_structured_llm(Book)
        assert books.complete(DICTATED).raw == HONGLOU
        assert (await books.achat([ChatMessage(DICTATED)])).raw == HONGLOU
        assert list(books.stream_chat([ChatMessage(DICTATED)]))[-1].raw == HONGLOU


def test_objects_through_a_call(scribe_way: dict[str, Any]) -> None:
    question = MARK + call("Book", HONGLOU.model_dump())
    with carrel(scribe_way, pydantic_program_mode="function") as llm:
        assert llm.structured_predict(Book, PROMPT, question=question) == HONGLOU


def test_forms_of_carrels_own(scribe_way: dict[str, Any]) -> None:
    with carrel(scribe_way) as llm:
        assert llm.complete(MARK + "否", structured_outputs={"choice": ["是", "否"]}).text == "否"
        assert llm.complete("水是湿的吗?", formatted=True, structured_outputs={"regex": "[0-9]{2}"}).text.isdecimal()


def test_a_model_that_is_not_known_to_call_says_so(llm: LLM) -> None:
    with carrel({"llm": llm}) as model:
        assert not model.metadata.is_function_calling_model
        with pytest.raises(ValueError, match="writes tool calls is not known"):
            model.chat_with_tools([SHELF], user_msg="第三层有什么?")
