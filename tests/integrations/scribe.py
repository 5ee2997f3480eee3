"""A model that calls tools, thinks and fills in forms as a test says, written as Qwen3 writes. Knows no adapter.

It answers a tool's result by repeating it, and a dictation (``照写:…``) by writing it. Off its script it does what a
form wants, see ``scripted.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MARK = "照写:"
NAME = "scribe"
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
WORDS = (  # single tokens, so that there are fewer steps
    '{"name": "',
    '", "arguments": {',
    "You may call one or more functions to assist with the user query.",
    "You are provided with function signatures within",
    "For each function call, return a json object with function name and arguments within",
    '{"type": "function", "function": {"name": "',
    '"description": "',
    '"parameters": {"type": "object", "properties": {',
    "查天气",
    "read_shelf",
    "magic_function",
    "unicode_customer",
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "查天气",
        "description": "一个城市的天气",
        "parameters": {
            "type": "object",
            "properties": {"城市": {"type": "string", "maxLength": 8}, "天数": {"type": "integer", "maximum": 9}},
            "required": ["城市"],
            "additionalProperties": False,
        },
    },
}


def call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as Qwen and Hermes write it."""
    text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{text}\n</tool_call>"


def thought(thoughts: str, answer: str) -> str:
    return f"<think>\n{thoughts}\n</think>\n\n{answer}"


def script(prompt: str) -> str:
    """The answer to a prompt of Qwen3's template."""
    last = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    if "<tool_response>" in last:
        return "工具说:" + last.partition("<tool_response>\n")[2].partition("\n</tool_response>")[0]
    if MARK in last:
        return last.partition(MARK)[2]
    return _of_langchain(last)


def _of_langchain(question: str) -> str:
    """Answers to the questions of LangChain's standard tests."""
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        r"magic_function\(3\)": ("magic_function", {"input": 3}),
        r"magic_function_no_args\(\)": ("magic_function_no_args", {}),
        r"^Hello!$": ("magic_function", {"input": 1}),
        r"Pirate greeting": ("greeting_generator", {"answer_style": "pirate"}),
        r"What is 3 \+ 4": ("my_adder_tool", {"a": 3, "b": 4}),
        r"weather in San Francisco": ("get_weather", {"location": "San Francisco, CA"}),
    }
    for pattern, (name, arguments) in calls.items():
        if re.search(pattern, question):
            return call(name, arguments)
    if customer := re.search("Create a customer named '(.+?)'", question):
        return call("unicode_customer", {"customer_name": customer[1], "description": "公司"})
    if "joke" in question:
        return json.dumps({"setup": "猫为什么上网?", "punchline": "找鼠标。"}, ensure_ascii=False)
    return "你好!这里是图书馆。Hello, this is the library."
