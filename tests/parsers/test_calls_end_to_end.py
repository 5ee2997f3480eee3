"""Chats with tools through the whole engine: a model that writes what a test says, its sampler, grammar and parsers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from answers import ANSWERS, TOOLS, tool
from carrel import LLM, AsyncLLM, SamplingParams
from carrel.config import ModelSpec
from carrel.errors import ChatTemplateError, InvalidParamsError, RequestError
from carrel.host import EngineHost
from carrel.outputs import MessageDelta
from carrel.params import RequestOutputKind
from carrel.parsers.message_fold import MessageFold
from carrel.parsers.registry import tool_parsers
from carrel.structured_params import StructuredOutputsParams
from scripted import scripted_folder, scripted_host
from tiny_models import TinyModels

TEMPLATES = Path(__file__).parents[1] / "data" / "chat_templates"
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEEPSEEK = ["begin", "end"]
MARKS = [f"<｜tool▁calls▁{side}｜>" for side in DEEPSEEK] + [f"<｜tool▁call▁{side}｜>" for side in DEEPSEEK]
SPECIAL = ["<|im_start|>", "<|im_end|>", "[TOOL_CALLS]", "<|python_tag|>", "<｜tool▁sep｜>", *MARKS, "<|junk|>"]
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
WORDS = [
    '{"name": "',
    '", "arguments": {"',
    '", "parameters": {"',
    "查询天气",
    "write_file",
    '"}}',
    "</parameter>",
    "<function=",
]
WORDS += ["<parameter=", '{"城市": "北京"', "content", "第一行", "path"]  # to be written in few steps
CITY = {
    "type": "object",
    "properties": {"城市": {"type": "string"}},
    "required": ["城市"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "查询天气", "parameters": CITY}}
STRICT = {"type": "function", "function": {"name": "查询天气", "parameters": CITY, "strict": True}}
NOW = tool("now")
CHAT = [{"role": "user", "content": "北京天气?"}]
LONG = SamplingParams(max_tokens=1500, temperature=0.0)


class Scribe:
    """Answers with ``text``, and keeps the last prompt."""

    def __init__(self) -> None:
        self.text = self.prompt = ""

    def __call__(self, prompt: str) -> str:
        self.prompt = prompt
        return self.text


@pytest.fixture(scope="module")
def scribe() -> Scribe:
    return Scribe()


@pytest.fixture(scope="module")
def host(scribe: Scribe, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHost]:
    """One folder hosted under each parser's name, with and without thoughts."""
    root = tmp_path_factory.mktemp("calls")
    folder = scripted_folder(tiny_models, root / "plain", chat_template=PLAIN, special=SPECIAL, added=[*ADDED, *WORDS])
    qwen3 = (TEMPLATES / "Qwen-Qwen3-0.6B.jinja").read_text(encoding="utf-8")
    opens = PLAIN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")

    def spec(name: str, **options: object) -> ModelSpec:
        return ModelSpec(name=str(folder), served_model_name=(name,), max_model_len=2048, **options)

    specs = [spec(parser, tool_call_parser=parser) for parser in tool_parsers()]
    specs.append(spec("unknown"))
    specs.append(spec("qwen3", chat_template=qwen3))
    specs.append(spec("qwen3-off", chat_template=qwen3, tool_call_parser="none", reasoning_parser="none"))
    specs.append(spec("opens", chat_template=opens, tool_call_parser="hermes", reasoning_parser="deepseek_r1"))
    host = scripted_host(specs, scribe)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture(scope="module")
def llm(host: EngineHost) -> Iterator[LLM]:
    with LLM(host=host) as llm:
        yield llm


@pytest.fixture
def ask(llm: LLM, scribe: Scribe):
    """``ask(model, script, **options)``: the completion."""

    def run(model, script, params=LONG, **options):
        scribe.text = script
        (output,) = llm.chat(CHAT, params, model=model, use_tqdm=False, **options)
        return output.outputs[0]

    return run


@pytest.fixture
def ask_twice(llm: LLM, ask):
    """The same, streamed as well, which gives the same."""

    def run(model, script, params=LONG, **options):
        whole, fold, text = ask(model, script, params, **options), MessageFold(), ""
        deltas = replace(params, output_kind=RequestOutputKind.DELTA)
        for part in llm.stream_chat(CHAT, deltas, model=model, **options):
            assert part.outputs[0].message is None
            assert isinstance(part.outputs[0].delta, MessageDelta)
            fold.add(part.outputs[0].delta)
            text += part.outputs[0].text
        message = fold.message()
        assert text == whole.text
        assert (message.content, message.reasoning) == (whole.message.content, whole.message.reasoning)
        assert calls(message) == calls(whole.message)
        return whole

    return run


def calls(message):
    return [(call.name, call.arguments) for call in message.tool_calls]


def read(message):
    return [(call.name, json.loads(call.arguments)) for call in message.tool_calls]


FIRST = {answer.parser: answer for answer in reversed(ANSWERS) if answer.calls and "🎉" in answer.text}


@pytest.mark.parametrize("parser", sorted(FIRST))
def test_auto(ask_twice, parser):
    answer = FIRST[parser]
    message = ask_twice(parser, answer.text, tools=TOOLS).message
    assert message.content == answer.content
    assert read(message) == list(answer.calls)


@pytest.mark.parametrize("parser", sorted(set(tool_parsers()) - {"mimo", "qwen3_xml", "llama4_json"}))
def test_a_forced_call_comes_whatever_the_model_wants(ask, parser):
    params = SamplingParams(max_tokens=150, temperature=0.0)
    output = ask(parser, "不。", params, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    (call,) = output.message.tool_calls
    assert output.message.content == ""
    assert call.name == "查询天气"
    if output.finish_reason == "stop":
        assert list(json.loads(call.arguments)) == ["城市"]


@pytest.mark.parametrize(
    ("parser", "script"),
    [
        ("hermes", '<tool_call>\n{"name": "查询天气", "arguments": {"城市": "北京"}}\n</tool_call>'),
        (
            "qwen3_coder",
            "<tool_call>\n<function=查询天气>\n<parameter=城市>\n北京\n</parameter>\n</function>\n</tool_call>",
        ),
        ("pythonic", '[查询天气(城市="北京")]'),
        ("mistral", '[TOOL_CALLS][{"name": "查询天气", "arguments": {"城市": "北京"}}]'),
        ("llama3_json", '{"name": "查询天气", "parameters": {"城市": "北京"}}'),
        (
            "deepseek_v3",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>查询天气\n```json\n"
            '{"城市": "北京"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        ),
        ("unknown", '[{"name": "查询天气", "parameters": {"城市": "北京"}}]'),
    ],
)
def test_a_forced_call_in_the_models_own_form(ask_twice, parser, script):
    choice = {"type": "function", "function": {"name": "查询天气"}}
    output = ask_twice(parser, script, tools=[WEATHER, NOW], tool_choice=choice if parser == "hermes" else "required")
    assert read(output.message) == [("查询天气", {"城市": "北京"})]
    assert output.finish_reason == "stop"
    assert output.text == script


def test_required_may_be_several_calls_and_parallel_false_is_one(ask):
    one = '<tool_call>\n{"name": "查询天气", "arguments": {"城市": "%s"}}\n</tool_call>'
    script = "\n".join([one % "北京", one % "上海"])
    both = ask("hermes", script, tools=[WEATHER], tool_choice="required").message
    assert read(both) == [("查询天气", {"城市": "北京"}), ("查询天气", {"城市": "上海"})]
    for choice in ("required", "auto"):
        single = ask("hermes", script, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False).message
        assert read(single) == [("查询天气", {"城市": "北京"})]
        assert single.content == ""


def test_none_is_text(ask, scribe):
    script = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    message = ask("qwen3", script, tools=[NOW], tool_choice="none").message
    assert (message.content, message.tool_calls) == (script, [])
    assert '"name": "now"' in scribe.prompt  # the model sees the tools: an answer later may call them


def test_strict_holds_calls_of_the_models_own_will(ask):
    script = '好。<tool_call>\n{"name": "查询天气", "arguments": {"城市": 7, "x": 1}}\n</tool_call>'
    loose = ask("hermes", script, tools=[WEATHER, NOW]).message
    assert read(loose) == [("查询天气", {"城市": 7, "x": 1})]
    strict = ask("hermes", script, SamplingParams(max_tokens=200, temperature=0.0), tools=[STRICT, NOW])
    assert strict.message.content == "好。"
    (call,) = strict.message.tool_calls
    assert call.arguments.startswith('{"城市": "')
    assert ask("hermes", "只有文字。", tools=[STRICT]).message.content == "只有文字。"


def test_thoughts_then_a_forced_call(ask):
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for model, script in [
        ("qwen3", f"<think>\n嗯 <tool_call>?\n</think>\n\n{call}"),
        ("opens", f"嗯 <tool_call>?\n</think>\n\n{call}"),
    ]:
        message = ask(model, script, tools=[NOW], tool_choice="required").message
        assert message.reasoning == "嗯 <tool_call>?"
        assert read(message) == [("now", {})]
        assert message.content == ""
    direct = ask("qwen3", call, tools=[NOW], tool_choice="required").message
    assert (direct.reasoning, read(direct)) == ("", [("now", {})])
    off = ask(
        "qwen3", call, tools=[NOW], tool_choice="required", chat_template_kwargs={"enable_thinking": False}
    ).message
    assert (off.reasoning, read(off)) == ("", [("now", {})])


def test_thoughts_with_strict_tools_are_free(ask):
    call = '<tool_call>\n{"name": "查询天气", "arguments": {"城市": "北京"}}\n</tool_call>'
    script = f"<think>\nmaybe <tool_call> or not\n</think>\n\n{call}"
    message = ask("qwen3", script, tools=[STRICT]).message
    assert message.reasoning == "maybe <tool_call> or not"
    assert read(message) == [("查询天气", {"城市": "北京"})]


def test_thoughts_then_json(ask):
    form = SamplingParams(max_tokens=400, temperature=0.0, structured_outputs=StructuredOutputsParams(json=CITY))
    for model, script in [
        ("qwen3", '<think>\n{"a"}\n</think>\n\n{"城市": "北京"}'),
        ("opens", '{"a"}\n</think>\n\n{"城市": "北京"}'),
    ]:
        message = ask(model, script, form).message
        assert message.reasoning == '{"a"}'
        assert json.loads(message.content) == {"城市": "北京"}


def test_a_form_and_tools_the_model_chooses(ask):
    form = SamplingParams(max_tokens=400, temperature=0.0, structured_outputs=StructuredOutputsParams(json=CITY))
    answer = ask("hermes", '{"城市": "北京"}', form, tools=[NOW]).message
    assert json.loads(answer.content) == {"城市": "北京"}
    call = ask("hermes", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', form, tools=[NOW]).message
    assert (call.content, read(call)) == ("", [("now", {})])


def test_thinking_state_comes_from_the_prompt(ask_twice):
    assert ask_twice("qwen3", "<think>\n嗯\n</think>\n\n好").message.reasoning == "嗯"
    off = ask_twice("qwen3", "好", chat_template_kwargs={"enable_thinking": False}).message
    assert (off.content, off.reasoning) == ("好", "")
    opened = ask_twice("opens", "嗯\n</think>\n好").message
    assert (opened.content, opened.reasoning) == ("好", "嗯")
    raw = ask_twice("qwen3-off", "<think>嗯</think>好").message
    assert (raw.content, raw.reasoning) == ("<think>嗯</think>好", "")


def test_cut_off(ask):
    script = '<think>\n一二三\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {"a": "b"}}\n</tool_call>'
    seen = set()
    for length in (1, 2, 5, 6, 9, 11, 14, 18, 25, 33, 36, 40, 60):
        output = ask("qwen3", script, SamplingParams(max_tokens=length, temperature=0.0), tools=[NOW])
        message = output.message
        kind = "call" if message.tool_calls else "text" if message.content else "thoughts" if message.reasoning else ""
        seen.add(kind)
        if output.finish_reason == "length" and kind == "call":
            assert '{"a": "b"}'.startswith(message.tool_calls[0].arguments)
            assert message.content == ""
        if kind == "text":
            assert script.endswith(message.content + script.split(message.content)[-1])
    assert seen >= {"call", "text", "thoughts"}


def test_stop_strings_are_found_in_thoughts_and_calls(ask_twice):
    script = '<think>\n一二三\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {"a": "结束"}}\n</tool_call>'
    output = ask_twice("qwen3", script, SamplingParams(max_tokens=400, temperature=0.0, stop="三"), tools=[NOW])
    assert (output.message.reasoning, output.message.content, output.stop_reason) == ("一二", "", "三")
    output = ask_twice("qwen3", script, SamplingParams(max_tokens=400, temperature=0.0, stop="束"), tools=[NOW])
    assert calls(output.message) == [("now", '{"a": "结')]
    output = ask_twice("qwen3", script, SamplingParams(max_tokens=400, temperature=0.0, stop="</think>"), tools=[NOW])
    assert (output.message.reasoning, output.message.content) == ("一二三\n", "")


def test_special_tokens_stay_only_where_the_format_needs_them(ask):
    output = ask("mistral", '<|junk|>[TOOL_CALLS][{"name": "now", "arguments": {}}]', tools=[NOW])
    assert output.text == '[TOOL_CALLS][{"name": "now", "arguments": {}}]'
    assert read(output.message) == [("now", {})]
    assert ask("mistral", "<|junk|>好[TOOL_CALLS]").text == "好"


def test_refusals(ask):
    with pytest.raises(RequestError, match="--tool-call-parser"):
        ask("unknown", "x", tools=[NOW])
    with pytest.raises(RequestError, match="--tool-call-parser"):
        ask("qwen3-off", "x", tools=[NOW])
    with pytest.raises(InvalidParamsError, match="none of the tools"):
        ask("hermes", "x", tools=[NOW], tool_choice={"function": {"name": "x"}})
    yes = replace(LONG, structured_outputs=StructuredOutputsParams(choice=["是"]))
    for choice in ("required", {"function": {"name": "now"}}):
        with pytest.raises(InvalidParamsError, match="give one of them") as caught:
            ask("hermes", "x", yes, tools=[NOW], tool_choice=choice)
        assert caught.value.param == "tool_choice"
    loop = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}
    with pytest.raises(InvalidParamsError, match=r"^tools: ") as caught:
        ask("hermes", "x", tools=[{"function": {"name": "f", "parameters": loop}}], tool_choice="required")
    assert caught.value.param == "tools"
    with pytest.raises(ChatTemplateError, match="system"):
        ask("hermes", "x", chat_template="{{ raise_exception('no system') }}")


def test_generate_has_no_message(llm, scribe):
    scribe.text = "<think>a</think>b"
    (output,) = llm.generate("x", SamplingParams(max_tokens=20), model="qwen3", use_tqdm=False)
    assert output.outputs[0].message is None
    assert output.outputs[0].delta is None
    assert output.outputs[0].text == "<think>a</think>b"


def test_a_slow_reader_gets_merged_deltas(host, scribe):
    scribe.text = '好<tool_call>{"name": "now", "arguments": {"a": "一二三"}}</tool_call>'
    params = SamplingParams(max_tokens=400, temperature=0.0, output_kind=RequestOutputKind.DELTA)

    async def read_slowly():
        async with AsyncLLM(host=host) as llm, aclosing(llm.chat(CHAT, params, model="hermes", tools=[NOW])) as stream:
            parts = [await anext(stream)]
            while host.loop.stats().num_open:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
            return parts + [part async for part in stream]

    parts, fold = asyncio.run(read_slowly()), MessageFold()
    for part in parts:
        fold.add(part.outputs[0].delta)
    assert len(parts) < 5
    assert read(fold.message()) == [("now", {"a": "一二三"})]
    assert fold.message().content == "好"


def test_several_completions_have_their_own_parsers(llm, scribe):
    scribe.text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    params = SamplingParams(max_tokens=400, n=3)
    (output,) = llm.chat([{"role": "user", "content": "x"}], params, model="hermes", tools=[NOW], use_tqdm=False)
    assert len({child.message.tool_calls[0].id for child in output.outputs}) == 3
