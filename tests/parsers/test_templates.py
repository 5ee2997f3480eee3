"""Released chat templates: what is read from them, and that every shape of a conversation renders in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from carrel.chat_messages import normalize
from carrel.chat_template import ChatTemplate
from carrel.errors import ChatTemplateError, RequestError
from carrel.parsers.answer import thought_state
from carrel.parsers.registry import detect_reasoning_parser, detect_tool_parser
from carrel.tokenizer_files import load_tokenizer_files
from scripted import scripted_folder
from tiny_models import TinyModels

FOLDER = Path(__file__).parents[1] / "data" / "chat_templates"
TOOLS = [{"type": "function", "function": {"name": "查询", "description": "天气", "parameters": {"type": "object"}}}]
USER = {"role": "user", "content": "北京天气?"}
CALL = {"id": "call_abc", "type": "function", "function": {"name": "查询", "arguments": '{"城市": "北京"}'}}


def template(name: str) -> ChatTemplate:
    (path,) = FOLDER.glob(f"*{name}*.jinja")
    return ChatTemplate(path.read_text(encoding="utf-8"), {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.mark.parametrize(
    ("name", "tools", "thoughts"),
    [
        ("Qwen2.5", "hermes", None),
        ("Qwen3", "hermes", "qwen3"),
        ("DeepSeek-R1-Distill", "deepseek_v3", "deepseek_r1"),
        ("Mistral-Nemo", "mistral", None),
        ("Phi-3.5", None, None),
    ],
)
def test_formats_are_read_from_the_template(name, tools, thoughts):
    text = template(name).text
    assert detect_tool_parser(text) == tools
    assert detect_reasoning_parser(text) == thoughts


def test_formats_of_other_templates():
    coder = "{% for tool in tools %}…<tool_call>\n<function=example_function_name>{% endfor %}"
    llama = '{% if tools %}Respond in the format {"name": function name, "parameters": dictionary of …}{% endif %}'
    assert detect_tool_parser(coder) == "qwen3_coder"
    assert detect_tool_parser(llama) == "llama3_json"
    assert detect_tool_parser("{{ tools }}<|python_tag|>") == "llama3_json"
    assert detect_tool_parser("{{ tools }}[func_name1(params_name1=params_value1…)]") == "pythonic"
    assert detect_tool_parser("<｜tool▁calls▁begin｜>{{ tool_calls }}<｜tool▁sep｜>") == "deepseek_v31"
    assert detect_tool_parser("a chat about <tool_call>") is None
    assert detect_tool_parser("{{ tools }}<tool_call>{name}<arg_key>k</arg_key><arg_value>v</arg_value>") is None
    assert detect_tool_parser("{{ tools }}<seed:tool_call>\n<function=f>") is None
    assert detect_tool_parser("") is None
    assert detect_reasoning_parser("[THINK]{{ thoughts }}[/THINK]") == "mistral"


@pytest.mark.parametrize(
    ("name", "kwargs", "state"),
    [
        ("Qwen3", {}, "maybe"),
        ("Qwen3", {"enable_thinking": False}, "closed"),
        ("DeepSeek-R1-Distill", {}, "open"),
        ("Qwen2.5", {}, "maybe"),
    ],
)
def test_thinking_state_of_the_rendered_prompt(name, kwargs, state):
    chat = [USER, {"role": "assistant", "content": "<think>a</think>b"}, {"role": "user", "content": "say <think>"}]
    assert thought_state(template(name).render(chat, **kwargs), "<think>", "</think>") == state


def test_thinking_state_of_a_continued_message():
    for content, state in [("<think>\n嗯", "open"), ("<think>嗯</think>是", "closed"), ("是", "closed")]:
        text = template("Phi").render(
            [USER, {"role": "assistant", "content": content}], add_generation_prompt=False, continue_final_message=True
        )
        assert thought_state(text, "<think>", "</think>", continues=True) == state


@pytest.mark.parametrize("name", ["Qwen2.5", "Qwen3", "DeepSeek-R1-Distill", "Mistral-Nemo"])
@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": "我查一下"}]])
@pytest.mark.parametrize("arguments", ['{"城市": "北京"}', {"城市": "北京"}, "", None])
def test_a_turn_with_calls_renders(name, content, arguments):
    call = {**CALL, "function": {"name": "查询", "arguments": arguments}}
    chat = [
        USER,
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_abc", "content": [{"type": "text", "text": "晴"}]},
    ]
    text = template(name).render(chat, TOOLS)
    assert "晴" in text
    if content != [{"type": "text", "text": "我查一下"}] or "Qwen" in name:
        assert "查询" in text.split("北京天气")[-1]
    assert ("北京" in text.split("北京天气")[-1]) == bool(arguments) or "DeepSeek" in name


def test_mistral_ids_have_nine_letters_and_digits():
    chat = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "abcDEF123"}]},
        {"role": "tool", "tool_call_id": "call_abc", "content": "晴"},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "雨"},
    ]
    text = template("Mistral").render(chat, TOOLS)
    assert '"id": "abcDEF123"' in text
    short = text.split('"id": "')[1][:9]
    assert short.isalnum()
    assert f'"call_id": "{short}"' in text
    assert text == template("Mistral").render(chat, TOOLS)  # the same ids: the prompt's beginning stays cached


def test_functions_of_the_older_api():
    chat = normalize(
        [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "查询", "arguments": "{}"}},
            {"role": "function", "name": "查询", "content": "晴"},
        ]
    )
    (call,) = chat[1]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "查询", "arguments": {}}, "id": "call_1_0"}
    assert "function_call" not in chat[1]
    assert chat[2] == {"role": "tool", "name": "查询", "content": "晴", "tool_call_id": "call_1_0"}
    assert "晴" in template("Qwen3").render(
        [
            USER,
            {"role": "assistant", "function_call": {"name": "查询", "arguments": "{}"}},
            {"role": "function", "name": "查询", "content": "晴"},
        ],
        TOOLS,
    )


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_of_earlier_turns_reach_the_template(name):
    chat = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL], name: "先查天气"},
        {"role": "tool", "tool_call_id": "call_abc", "content": "晴"},
    ]
    assert "<think>\n先查天气\n</think>" in template("Qwen3").render(chat, TOOLS)


def test_what_is_not_text_is_refused():
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(RequestError, match="only text is supported"):
        normalize([{"role": "user", "content": [image]}])
    with pytest.raises(RequestError, match="tool_calls must be a list"):
        normalize([{"role": "assistant", "tool_calls": "x"}])


def test_the_tool_use_template_is_for_tools(tiny_models: TinyModels, tmp_path):
    folder = scripted_folder(tiny_models, tmp_path)
    path = folder / "tokenizer_config.json"
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    named = [{"name": "tool_use", "template": "T{{ tools|length }}"}, {"name": "default", "template": "D"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": named}))
    files = load_tokenizer_files(folder)
    both = ChatTemplate(files.chat_template or "", tool_text=files.tool_chat_template)
    assert both.render([USER]) == "D"
    assert both.render([USER], TOOLS) == "T1"
    (folder / "chat_template.jinja").write_text("J")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("JT")
    files = load_tokenizer_files(folder)
    assert (files.chat_template, files.tool_chat_template) == ("J", "JT")


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
        "{% set carrel_budget = 1 %}{% for i in range(9) %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'|center(1000000000) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ range(1000000000) }}",
        "{{ 'a\\nb'|indent(1000000000) }}",
        "{{ messages|tojson(indent=1000000000) }}",
        "{{ '%*d'|format(1000000000, 1) }}",
        "{{ '{:{}}'.format('a', 1000000000) }}",
        "{{ strftime_now('%1000000000Y') }}",
        "{% set a = 'a' * 9999999 %}{{ a|replace('a', a) }}",
        "{% set a = 'a' * 9999999 %}{{ a.replace('a', a) }}",
        "{% set a = 'a' * 9999999 %}{{ range(9999)|join(a) }}",
        "{% set a = 'a' * 9999 %}{{ a.join(a) }}",
        "{{ ('\\t' * 9999999).expandtabs(9999) }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x={}) %}{% for i in range(60) %}{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = x %}{% endfor %}",
        "{% for i in range(99) recursive %}{{ loop(range(99)) if loop.depth < 8 }}{% endfor %}",
        "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
    ],
)
def test_bombs_are_refused(bomb, monkeypatch):
    monkeypatch.setattr("carrel.template_sandbox.MAX_TURNS", 20_000)  # what a quick test can wait for
    with pytest.raises(ChatTemplateError):
        ChatTemplate(bomb).render([USER])


def test_loops_keep_their_helpers():
    text = "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last else '.' }}{% endfor %}"
    assert ChatTemplate(text).render([USER, USER]) == "1/2,2/2."
    nested = "{% for k, v in {'a': [1, 2]}.items() %}{{ k ~ v|length }}{% else %}none{% endfor %}"
    assert ChatTemplate(nested).render([USER]) == "a2"
    assert ChatTemplate("{% for x in nothing %}{% else %}none{% endfor %}").render([USER]) == "none"


def test_filters_that_are_bounded_do_what_they_did():
    text = (
        "{{ ['你', 1]|join('-') }} {{ messages|join(',', attribute='role') }} {{ 'a\\nb'|indent(2, true) }} "
        "{{ 'aba'|replace('a', 'c', 1) }} {{ '%02d'|format(7) }} {{ 5|string ~ none|string }} "
        "{{ {'a': '<你>'}|tojson(indent=1) }} {% set (a, b) = (1, [2]) %}{{ a }}{{ b }} {{ '{:>4}'.format(a) }}"
    )
    expected = '你-1 user   a\n  b cba 07 5None {\n "a": "<你>"\n} 1[2]    1'
    assert ChatTemplate(text).render([USER]) == expected
