"""Thoughts and hermes calls, whole and in every split."""

from __future__ import annotations

import pytest
from carrel.parsers.base import TextParser
from carrel.parsers.hermes import HermesParser
from carrel.parsers.message_fold import MessageFold
from carrel.parsers.thoughts import ThoughtParser
from carrel.parsers.tool_set import ToolSet


def parsed(parser, pieces):
    fold = MessageFold()
    for piece in pieces:
        fold.add(parser.push(piece))
    fold.add(parser.flush())
    message = fold.message()
    return message.reasoning, message.content, [(call.name, call.arguments) for call in message.tool_calls]


@pytest.mark.parametrize(
    ("state", "text", "expected"),
    [
        ("maybe", "<think>\n嗯,好\n</think>\n\n你好", ("嗯,好", "你好", [])),
        ("open", "嗯\n\n好\n</think>\n\n你好\n", ("嗯\n\n好", "你好\n", [])),
        ("maybe", " 你好 <think>", ("", " 你好 <think>", [])),
        ("open", "never </thi", ("never </thi", "", [])),
        (
            "maybe",
            '<think>a</think>\n<tool_call>\n{"name": "f", "arguments": {"q": "</tool_call>}\\""}}\n</tool_call>',
            ("a", "", [("f", '{"q": "</tool_call>}\\""}')]),
        ),
    ],
)
def test_thoughts_in_every_split(state, text, expected):
    for cut in range(len(text) + 1):
        assert parsed(ThoughtParser(HermesParser(ToolSet()), state), [text[:cut], text[cut:]]) == expected
    assert parsed(ThoughtParser(HermesParser(ToolSet()), state), text) == expected


def test_text_alone():
    assert parsed(ThoughtParser(TextParser(), "open"), "好</think>\n是") == ("好", "是", [])
