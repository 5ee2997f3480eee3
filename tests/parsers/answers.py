"""Answers as models write them, each with what it says; and how to take one apart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from carrel.outputs import ChatMessage
from carrel.parsers.base import MessageParser
from carrel.parsers.message_fold import MessageFold
from carrel.parsers.registry import tool_parsers
from carrel.parsers.tool_set import ToolSet


def tool(name, strict=None, **properties):
    parameters = {"type": "object", "properties": properties} if properties else None
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TOOLS = [
    tool("查询天气", 城市=TEXT, 天数=NUMBER),
    tool(
        "write_file",
        path=TEXT,
        content=TEXT,
        lines={"type": "array", "items": NUMBER},
        meta={"type": "object"},
        force=FLAG,
        ratio={"type": "number"},
        owner={"anyOf": [TEXT, {"type": "null"}]},
        size={"anyOf": [NUMBER, TEXT]},
    ),
    tool("now"),
]


@dataclass(frozen=True)
class Answer:
    parser: str
    text: str
    content: str
    calls: tuple[tuple[str, object], ...]

    def __post_init__(self):
        text = self.text.replace("@BEIJING", BEIJING_JSON).replace("@HARD", HARD_JSON)
        object.__setattr__(self, "text", text)


def fold(parser: MessageParser, pieces: Iterable[str]) -> ChatMessage:
    whole = MessageFold()
    for piece in pieces:
        whole.add(parser.push(piece))
    whole.add(parser.flush())
    return whole.message()


def make(parser: str) -> MessageParser:
    return tool_parsers()[parser](ToolSet(TOOLS))


def said(message: ChatMessage) -> tuple[str, tuple[tuple[str, object], ...]]:
    return message.content, tuple((call.name, json.loads(call.arguments)) for call in message.tool_calls)


HARD = {"path": 'a\\b "q" {[ ]} </tool_call>', "content": "第一行\n🎉<tool_call>\t'x'", "meta": {"a": [{}, "]"]}}
HARD_JSON = json.dumps(HARD, ensure_ascii=False)
BEIJING = {"城市": "北京", "天数": 3}
BEIJING_JSON = json.dumps(BEIJING, ensure_ascii=False)
TWO = (("查询天气", BEIJING), ("write_file", HARD))
ANSWERS = [
    # hermes
    Answer("hermes", "你好,没有工具。", "你好,没有工具。", ()),
    Answer("hermes", "a < b <tool> <tool_cal", "a < b <tool> <tool_cal", ()),
    Answer(
        "hermes",
        '好的。\n<tool_call>\n{"name": "查询天气", "arguments": @BEIJING}\n</tool_call>\n<tool_call>'
        '{"name":"write_file",'
        '"arguments":@HARD}</tool_call>\n',
        "好的。\n",
        TWO,
    ),
    Answer("hermes", '\n\n<tool_call>{"name": "now"}</tool_call> 完', " 完", (("now", {}),)),
    Answer("hermes", '<tool_call>{"arguments": @HARD, "name": "write_file"}</tool_call>', "", TWO[1:]),
    Answer("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}', "", (("now", {"a": 1}),)),
    Answer("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", (("now", {}),)),
    Answer("hermes", "<tool_call>没有</tool_call>", "<tool_call>没有</tool_call>", ()),
    Answer("hermes", '<tool_call><tool_call>{"name": "now"}</tool_call>', "<tool_call>", (("now", {}),)),
    Answer("hermes", '<tool_call>{"title": "x"}</tool_call>', '<tool_call>{"title": "x"}</tool_call>', ()),
    # llama 3
    Answer("llama3_json", '{"name": "now", "parameters": {}}', "", (("now", {}),)),
    Answer(
        "llama3_json",
        '<|python_tag|>{"name": "查询天气", "parameters": @BEIJING}; {"name": "write_file", "parameters": @HARD}',
        "",
        TWO,
    ),
    Answer("llama3_json", '{"name": "Ann", "age": 3}', '{"name": "Ann", "age": 3}', ()),
    Answer("llama3_json", 'A person: {"name": "now"}', 'A person: {"name": "now"}', ()),
    Answer(
        "llama3_json", '{"type": "function", "name": "now", "parameters": {"a": 1}} 好', " 好", (("now", {"a": 1}),)
    ),
    # mistral
    Answer(
        "mistral",
        '好[TOOL_CALLS] [{"name": "查询天气", "arguments": @BEIJING}'
        ', {"arguments": @HARD, "name": "write_file", "id":"123456789"}]',
        "好",
        TWO,
    ),
    Answer("mistral", "[TOOL_CALLS]查询天气@BEIJING[TOOL_CALLS]write_file[ARGS]@HARD", "", TWO),
    Answer("mistral", "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}", "", (("now", {}),)),
    Answer("mistral", "[TOOL_CALLS] what?", "[TOOL_CALLS] what?", ()),
    Answer("mistral", "[TOOL_CALLS][]", "[TOOL_CALLS][]", ()),
    # qwen 3 coder
    Answer(
        "qwen3_coder",
        "我来写。\n<tool_call>\n<function=查询天气>\n<parameter=城市>\n北京\n</parameter>\n<parameter=天数>\n3\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "我来写。\n",
        (TWO[0], ("now", {})),
    ),
    Answer(
        "qwen3_coder",
        '<function=write_file><parameter=content>\nif "a":\n\treturn \\n 🎉 </para\n\n</parameter>'
        "<parameter=lines>[1, 2]"
        "</parameter><parameter=meta>\n"
        "{'a': True, \"b\": [null, 1.50]}\n</parameter><parameter=force>\nTrue\n</parameter>"
        "<parameter=ratio>\n1e3\n</parameter><parameter=owner>\nnull\n</parameter><parameter=size>\n12\n</parameter>"
        "<parameter=other>\n7\n</parameter></function>",
        "",
        (
            (
                "write_file",
                {
                    "content": 'if "a":\n\treturn \\n 🎉 </para\n',
                    "lines": [1, 2],
                    "meta": {"a": True, "b": [None, 1.5]},
                    "force": True,
                    "ratio": 1000.0,
                    "owner": None,
                    "size": 12,
                    "other": "7",
                },
            ),
        ),
    ),
    Answer(
        "qwen3_coder",
        "<tool_call><function=write_file><parameter=owner>nullable</parameter><parameter=size>大</parameter>"
        "<parameter=path></parameter><parameter=force>maybe</parameter></function></tool_call>!",
        "!",
        (("write_file", {"owner": "nullable", "size": "大", "path": "", "force": "maybe"}),),
    ),
    Answer("qwen3_coder", "<tool_call>\nprint(1)\n</tool_call>", "<tool_call>\nprint(1)\n</tool_call>", ()),
    # pythonic
    Answer(
        "pythonic",
        "[查询天气(城市='北京', 天数=3), write_file(path=\"a\\\\b \\\"q\\\" {[ ]} </tool_call>\", content='''第一行\n🎉"
        "<tool_call>\\t'x''', meta={'a': [{}, \"]\"]})]",
        "",
        (TWO[0], ("write_file", {**HARD, "content": "第一行\n🎉<tool_call>\t'x"})),
    ),
    Answer("pythonic", "[now()]", "", (("now", {}),)),
    Answer(
        "pythonic",
        "[now(), now(a=-1.5e-3, b=(True, None), c=false, d='', e=1_000,)] 好",
        " 好",
        (("now", {}), ("now", {"a": -0.0015, "b": [True, None], "c": False, "d": "", "e": 1000})),
    ),
    Answer("pythonic", "[now(a='\\x41\\u4f60\\U0001F600\\q')]", "", (("now", {"a": "A你😀\\q"}),)),
    Answer("pythonic", "[1, 2] und [now()]", "[1, 2] und [now()]", ()),
    Answer("pythonic", "[print(1)]", "[print(1)]", ()),
    Answer(
        "llama4_pythonic", "好<|python_start|>[other(a={1: 'x'})]<|python_end|>", "好", (("other", {"a": {"1": "x"}}),)
    ),
    # deepseek
    Answer(
        "deepseek_v3",
        "好<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>查询天气\n```json\n@BEIJING\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>write_file\n```json\n@HARD\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "好",
        TWO,
    ),
    Answer(
        "deepseek_v31",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>查询天气<｜tool▁sep｜>@BEIJING<｜tool▁call▁end｜><｜tool▁call▁begin｜>write_file"
        "<｜tool▁sep｜>@HARD<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        TWO,
    ),
    Answer("deepseek_v3", "<｜tool▁calls▁begin｜>好", "<｜tool▁calls▁begin｜>好", ()),
    # others
    Answer(
        "json",
        '\n[{"name": "查询天气", "parameters": @BEIJING}, {"name": "write_file", "parameters": @HARD}]',
        "",
        TWO,
    ),
    Answer("json", '{"name": "now", "parameters": {}}', "", (("now", {}),)),
    Answer("json", "[]", "[]", ()),
    Answer("phi4_mini_json", 'functools[{"name": "now", "arguments": {"a": "]"}}]', "", (("now", {"a": "]"}),)),
]
