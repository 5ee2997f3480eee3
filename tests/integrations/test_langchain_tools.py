"""ChatCarrel with tools, against a model that calls them as a test says, in process and over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from carrel.errors import InvalidParamsError, RequestError
from carrel_client import ServerRefusedError
from langchain_carrel import ChatCarrel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from scribe import MARK, WEATHER, call, thought

BEIJING, SHANGHAI = call("查天气", {"城市": "北京"}), call("查天气", {"城市": "上海", "天数": 3})
SEARCH = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}


@tool
def read_shelf(number: int) -> str:
    """Which books stand on a shelf."""
    return f"第{number}层:《红楼梦》"


def chat(way: dict[str, Any], **options: Any) -> ChatCarrel:
    return ChatCarrel(**{"temperature": 0, "max_tokens": 300, **way, **options})


def ask(answer: str) -> list[BaseMessage]:
    return [HumanMessage(MARK + answer)]


def added(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


def plain(message: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    return [(one["name"], one["args"]) for one in message.tool_calls]


async def test_calls_in_four_ways(scribe_way: dict[str, Any]) -> None:
    question = ask(thought("先看天气。", f"我查一下。\n{BEIJING}\n{SHANGHAI}"))
    async with chat(scribe_way) as model:
        bound = model.bind_tools([WEATHER, SEARCH])
        messages = [
            bound.invoke(question),
            await bound.ainvoke(question),
            added(list(bound.stream(question))),  # type: ignore[arg-type]
            added([chunk async for chunk in bound.astream(question)]),  # type: ignore[misc]
        ]
    for message in messages:
        assert isinstance(message, AIMessage)
        assert plain(message) == [("查天气", {"城市": "北京"}), ("查天气", {"城市": "上海", "天数": 3})]
        assert len({one["id"] for one in message.tool_calls}) == 2
        assert message.text.strip() == "我查一下。"
        assert message.additional_kwargs["reasoning_content"].strip() == "先看天气。"
        assert [block["type"] for block in message.content_blocks] == ["reasoning", "text", "tool_call", "tool_call"]
        assert message.response_metadata["finish_reason"] == "tool_calls"
        assert message.usage_metadata is not None and message.usage_metadata["output_tokens"] > 10
        assert message.invalid_tool_calls == []


def test_a_call_is_streamed_with_its_id_and_name_once(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way) as model:
        chunks = list(model.bind_tools([WEATHER]).stream(ask(f"{BEIJING}\n{SHANGHAI}")))
    pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]  # type: ignore[attr-defined]
    assert [piece["name"] for piece in pieces if piece["name"]] == ["查天气"] * 2
    assert len({piece["id"] for piece in pieces if piece["id"]}) == len([p for p in pieces if p["id"]]) == 2
    assert sorted({piece["index"] for piece in pieces}) == [0, 1]
    assert len(pieces) > 4, "arguments came whole"
    assert all("<tool_call>" not in chunk.text for chunk in chunks)


@pytest.mark.parametrize("choice", ["any", "required", True, "查天气", WEATHER])
def test_a_forced_call_follows_the_schema(scribe_way: dict[str, Any], choice: Any) -> None:
    with chat(scribe_way) as model:
        message = model.bind_tools([WEATHER], tool_choice=choice).invoke(ask(thought("不想查。", "我不查。")))
    ((name, arguments),) = plain(message)
    assert name == "查天气"
    assert isinstance(arguments["城市"], str)
    assert message.response_metadata["finish_reason"] == "tool_calls"


def test_no_call_where_none_is_wanted(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way) as model:
        assert model.bind_tools([WEATHER], tool_choice="none").invoke(ask(BEIJING)).tool_calls == []
        message = model.bind_tools([WEATHER], tool_choice="auto").invoke(ask("今天不用查。"))
        assert (message.text, message.tool_calls) == ("今天不用查。", [])
        assert message.response_metadata["finish_reason"] == "stop"


def test_one_call_at_most_and_strict_calls(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way) as model:
        single = model.bind_tools([WEATHER], parallel_tool_calls=False).invoke(ask(f"{BEIJING}\n{SHANGHAI}"))
        assert plain(single) == [("查天气", {"城市": "北京"})]
        wrong = call("read_shelf", {"number": "三"})
        strict = model.bind_tools([read_shelf], strict=True).invoke(ask(wrong), max_tokens=60)
        loose = model.bind_tools([read_shelf]).invoke(ask(wrong))
    assert plain(loose) == [("read_shelf", {"number": "三"})]
    assert all(isinstance(arguments["number"], int) for _, arguments in plain(strict))


def test_a_call_that_was_cut_off_is_invalid(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way) as model:
        bound = model.bind_tools([WEATHER], tool_choice="any")
        whole = bound.invoke(ask(SHANGHAI))
        assert whole.usage_metadata is not None
        cut = bound.invoke(ask(SHANGHAI), max_tokens=whole.usage_metadata["output_tokens"] - 16)
    assert cut.tool_calls == []
    ((invalid),) = cut.invalid_tool_calls
    assert invalid["name"] == "查天气"
    assert (invalid["args"] or "").startswith('{"城市')
    assert (invalid["error"] or "").startswith("Not JSON")
    assert cut.response_metadata["finish_reason"] == "length"


def test_an_agents_round(scribe_way: dict[str, Any]) -> None:
    """Question, call, result, answer; the thoughts of the call go back with it."""
    with chat(scribe_way) as model:
        bound = model.bind_tools([read_shelf])
        messages: list[BaseMessage] = ask(thought("要看第三层。", call("read_shelf", {"number": 3})))
        asked = bound.invoke(messages)
        results = [read_shelf.invoke(one) for one in asked.tool_calls]
        assert all(isinstance(result, ToolMessage) for result in results)
        answer = bound.invoke([*messages, asked, *results])
        assert answer.text == "工具说:第3层:《红楼梦》"
        assert answer.tool_calls == []
        counted = model.get_num_tokens_from_messages([*messages, asked, *results], tools=[read_shelf])
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_tokens"] == counted
        assert counted > model.get_num_tokens_from_messages([*messages, asked, *results])


def test_v1_content_goes_both_ways(scribe_way: dict[str, Any]) -> None:
    with chat(scribe_way, output_version="v1") as model:
        bound = model.bind_tools([read_shelf])
        messages: list[BaseMessage] = ask(thought("看第三层。", "好。" + call("read_shelf", {"number": 3})))
        for asked in (bound.invoke(messages), added(list(bound.stream(messages)))):  # type: ignore[arg-type]
            assert isinstance(asked.content, list)
            kinds = [block["type"] for block in asked.content if isinstance(block, dict)]
            assert kinds == ["reasoning", "text", "tool_call"]
            answer = bound.invoke([*messages, asked, read_shelf.invoke(asked.tool_calls[0])])
            assert answer.text == "工具说:第3层:《红楼梦》"


def test_what_the_engine_refuses(way_in: dict[str, Any]) -> None:
    """The random model of ``way_in`` has a template that says nothing of calls."""
    with (
        chat(way_in) as model,
        pytest.raises((RequestError, ServerRefusedError), match="writes tool calls is not known"),
    ):
        model.bind_tools([WEATHER]).invoke("北京天气?")
    with chat(way_in) as model, pytest.raises(InvalidParamsError, match="which is none of the tools"):
        model.bind_tools([WEATHER], tool_choice="查天汽").invoke("北京天气?")
