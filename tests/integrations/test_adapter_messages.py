"""Messages in both directions, without a model: what is sent for a conversation, what a reply becomes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest
from carrel.errors import InvalidParamsError
from carrel.outputs import ChatMessage as Message
from carrel.outputs import ToolCall
from carrel_client import Piece, Reply, Usage
from langchain_carrel import _messages as langchain
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from llama_index.core.base.llms.types import ChatMessage as LlamaMessage
from llama_index.core.base.llms.types import ImageBlock, MessageRole, TextBlock, ToolCallBlock
from llama_index.llms.carrel import _messages as llama

REPLY = Reply("分页注意力。", "stop", Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=8), "tiny")
PIECES = [Piece("分页"), Piece("注意力。"), Piece("", REPLY)]
CALLS = Reply.of(
    Message(
        reasoning="想。",
        tool_calls=[
            ToolCall("c1", "查天气", '{"城市": "北京"}'),
            ToolCall("c2", "查天气", '{"城市": "上'),
            ToolCall("c3", "查天气", "3"),
        ],
    ),
    "length",
    Usage(10, 4),
    "tiny",
)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}


def test_langchain_conversation() -> None:
    call = {"name": "add", "args": {"城市": "北京"}, "id": "c1"}
    messages = [
        SystemMessage("简短。"),
        HumanMessage([{"type": "text", "text": "你"}, "好"], name="小王"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("5", tool_call_id="c1"),
        ChatMessage(content="…", role="observer"),
    ]
    function = {"name": "add", "arguments": '{"城市": "北京"}'}
    assert langchain.to_dicts(messages) == [
        {"role": "system", "content": "简短。"},
        {"role": "user", "content": "你好", "name": "小王"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
        {"role": "observer", "content": "…"},
    ]


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("晴。", additional_kwargs={"reasoning_content": "看过了。"}),
        AIMessage([{"type": "reasoning", "reasoning": "看过了。"}, {"type": "text", "text": "晴。"}]),
    ],
)
def test_langchain_thoughts_go_back(message: AIMessage) -> None:
    assert langchain.to_dicts([message]) == [{"role": "assistant", "content": "晴。", "reasoning_content": "看过了。"}]


def test_langchain_calls() -> None:
    message = langchain.to_result(CALLS).generations[0].message
    assert isinstance(message, AIMessage)
    assert [(call["id"], call["args"]) for call in message.tool_calls] == [("c1", {"城市": "北京"})]
    assert [(call["id"], call["args"]) for call in message.invalid_tool_calls] == [("c2", '{"城市": "上'), ("c3", "3")]
    assert next(block["type"] for block in message.content_blocks) == "reasoning"
    (sent,) = langchain.to_dicts([message])
    assert [call["id"] for call in sent["tool_calls"]] == ["c1"], "what is no JSON cannot go back"


@pytest.mark.parametrize("message", [HumanMessage([IMAGE]), RemoveMessage(id="1")])
def test_langchain_messages_that_are_not_text_are_refused(message: HumanMessage | RemoveMessage) -> None:
    with pytest.raises(InvalidParamsError):
        langchain.to_dicts([message])


def test_langchain_result() -> None:
    message = langchain.to_result(REPLY).generations[0].message
    assert isinstance(message, AIMessage)
    assert message.text == "分页注意力。"
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["model_name"] == "tiny"
    assert message.usage_metadata == {
        "input_tokens": 10,
        "output_tokens": 4,
        "total_tokens": 14,
        "input_token_details": {"cache_read": 8},
    }


def test_langchain_chunks_add_up_to_the_result() -> None:
    chunks = [langchain.to_chunk(piece).message for piece in PIECES]
    total = AIMessageChunk(content="")
    for chunk in chunks:
        assert isinstance(chunk, AIMessageChunk)
        total = total + chunk
    whole = langchain.to_result(REPLY).generations[0].message
    assert isinstance(whole, AIMessage)
    assert total.content == whole.content
    assert total.usage_metadata == whole.usage_metadata
    assert total.response_metadata == whole.response_metadata
    assert [chunk.usage_metadata is not None for chunk in chunks if isinstance(chunk, AIMessageChunk)] == [0, 0, 1]


def test_llama_index_conversation() -> None:
    messages = [
        LlamaMessage("简短。", role=MessageRole.DEVELOPER),
        LlamaMessage(blocks=[TextBlock(text="你"), TextBlock(text="好")]),
        LlamaMessage("好。", role=MessageRole.MODEL),
        LlamaMessage("5", role=MessageRole.TOOL, additional_kwargs={"tool_call_id": "c1", "other": 1}),
    ]
    assert llama.to_dicts(messages) == [
        {"role": "system", "content": "简短。"},
        {"role": "user", "content": "你\n好"},
        {"role": "assistant", "content": "好。"},
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
    ]


def test_llama_index_calls_go_both_ways() -> None:
    message = llama.to_chat_response(CALLS).message
    arguments = [block.tool_kwargs for block in message.blocks if isinstance(block, ToolCallBlock)]
    assert arguments == [{"城市": "北京"}, '{"城市": "上', "3"]
    assert message.content is None
    (sent,) = llama.to_dicts([message])
    assert sent["reasoning_content"] == "想。"
    assert sent["tool_calls"] == message.additional_kwargs["tool_calls"]
    assert sent["tool_calls"][0] == {
        "id": "c1",
        "type": "function",
        "function": {"name": "查天气", "arguments": '{"城市": "北京"}'},
    }


def test_llama_index_images_are_refused() -> None:
    with pytest.raises(InvalidParamsError, match="'image'"):
        llama.to_dicts([LlamaMessage(blocks=[ImageBlock(url="http://127.0.0.1/a.png")])])


def pieces() -> Generator[Piece, None, None]:
    yield from PIECES


async def apieces() -> AsyncGenerator[Piece, None]:
    for piece in PIECES:
        yield piece


async def test_llama_index_streams_cumulative_text_and_deltas() -> None:
    chats = [(r.message.content, r.delta) for r in llama.to_chat_stream(pieces())]
    texts = [(r.text, r.delta) for r in llama.to_completion_stream(pieces())]
    expected = [("分页", "分页"), ("分页注意力。", "注意力。"), ("分页注意力。", "")]
    assert chats == texts == expected
    assert [(r.message.content, r.delta) async for r in llama.to_chat_astream(apieces())] == expected
    assert [(r.text, r.delta) async for r in llama.to_completion_astream(apieces())] == expected


def test_llama_index_counts_stand_on_the_last_response_alone() -> None:
    responses = list(llama.to_chat_stream(pieces()))
    assert [bool(response.raw) for response in responses] == [False, False, True]
    assert responses[-1].raw is not None
    assert responses[-1].raw["usage"]["prompt_tokens_details"] == {"cached_tokens": 8}
    assert responses[-1].additional_kwargs == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    assert llama.to_chat_response(REPLY).delta is None
