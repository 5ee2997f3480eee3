"""Templates render as transformers renders them, whatever form the messages come in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from carrel.chat_template import ChatTemplate
from carrel.errors import ChatTemplateError, RequestError
from transformers import AutoTokenizer

CHATML = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "天气", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "id": "call12345", "function": {"name": "get_weather", "arguments": {"city": "北京"}}}
CONVERSATIONS = [
    [{"role": "user", "content": "你好"}],
    [
        {"role": "system", "content": "你是助手。"},
        {"role": "user", "content": " a\nb "},
        {"role": "assistant", "content": "好。"},
        {"role": "user", "content": "<b>&\"'"},
    ],
]
TOOLS = [
    {"role": "user", "content": "天气?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call12345", "content": "晴"},
    {"role": "assistant", "content": "晴天。"},
    {"role": "user", "content": "谢谢"},
]


@pytest.fixture(scope="module")
def released():
    """Templates of released models, where a checkout has them beside it."""
    root = Path(os.environ.get("CARREL_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "chat_templates"
    if not root.is_dir():
        pytest.skip("templates of released models are not here (set CARREL_SHARED to a folder that has them)")
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(root.glob("*.jinja"))}


@pytest.mark.parametrize("options", [{}, {"add_generation_prompt": False}])
def test_released_templates_render_as_transformers_does(released, tokenizer_folders, options):
    theirs = AutoTokenizer.from_pretrained(tokenizer_folders["byte_fallback"])
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for name, text in released.items():
        template = ChatTemplate(text, tokens)
        for messages in CONVERSATIONS:
            expected = theirs.apply_chat_template(
                messages, chat_template=text, tokenize=False, **({"add_generation_prompt": True} | options)
            )
            assert template.render(messages, **options) == expected, name


@pytest.mark.parametrize("arguments", [{"city": "北京"}, '{"city": "北京"}', ""])
def test_tool_calls_render_whatever_way_the_template_takes_arguments(released, arguments):
    messages = [dict(message) for message in TOOLS]
    messages[1]["tool_calls"] = [CALL | {"function": {"name": "get_weather", "arguments": arguments}}]
    for name, text in released.items():
        if "Phi" in name:
            continue  # its template knows no tools
        rendered = ChatTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"}).render(messages, [WEATHER])
        assert "get_weather" in rendered, name
        assert ("北京" in rendered.split("get_weather", 1)[1]) == bool(arguments), name
        assert "\\u" not in rendered, name  # no escaped Chinese
        assert '\\"city' not in rendered, name  # not encoded twice


def test_parts_nulls_and_developers():
    messages = [
        {"role": "developer", "content": "规则"},
        {"role": "user", "content": [{"type": "text", "text": "一"}, {"type": "text", "text": "二"}], "name": None},
        {"role": "assistant", "content": None},
    ]
    text = ChatTemplate(CHATML).render(messages, add_generation_prompt=False)
    turns = ["system\n规则", "user\n一\n二", "assistant\n"]
    assert text == "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    knows = "{% for m in messages %}{% if m.role == 'developer' %}D{% endif %}{% endfor %}"
    assert ChatTemplate(knows).render(messages) == "D"


def test_the_callers_messages_are_left_alone():
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{}"}}]}
    ]
    before = repr(messages)
    ChatTemplate(CHATML).render(messages)
    assert repr(messages) == before


def test_the_last_message_can_be_continued():
    messages = [{"role": "user", "content": "数数"}, {"role": "assistant", "content": "一、二、"}]
    text = ChatTemplate(CHATML).render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\n一、二、")
    with pytest.raises(RequestError, match="exclude each other"):
        ChatTemplate(CHATML).render(messages, continue_final_message=True)
    with pytest.raises(ChatTemplateError, match="drops the last message"):
        ChatTemplate("你好").render(messages, add_generation_prompt=False, continue_final_message=True)


def test_arguments_for_the_template():
    template = ChatTemplate("{% if enable_thinking %}think{% else %}no{% endif %}")
    assert template.render([{"role": "user", "content": "a"}], enable_thinking=False) == "no"
    assert template.render([{"role": "user", "content": "a"}], enable_thinking=True) == "think"


def test_what_templates_may_use():
    text = (
        "{% generation %}{{ bos_token }}{% endgeneration %}"
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{{ {'k': '<值>'} | tojson(indent=None) }}{{ strftime_now('%Y') | length }}"
    )
    assert ChatTemplate(text, {"bos_token": "<s>"}).render([{"role": "user", "content": ""}]) == '<s>1{"k": "<值>"}4'


@pytest.mark.parametrize("arguments", ["[" * 2000, {"a": {1, 2}}])
def test_arguments_that_no_template_can_take(arguments):
    """The template wants text, so an object is written as JSON before it is given up."""
    template = ChatTemplate("{{ messages[0].tool_calls[0].function.arguments + 'x' }}")
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(RequestError, match="JSON"):
        template.render([{"role": "assistant", "tool_calls": [call]}])


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_calls_that_are_no_list(role):
    with pytest.raises(RequestError, match=r"messages\[0\].tool_calls must be a list"):
        ChatTemplate("x").render([{"role": role, "content": "x", "tool_calls": 5}])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_templates_that_attack_or_fail_are_refused(attack):
    with pytest.raises(ChatTemplateError):
        ChatTemplate(attack).render([{"role": "user", "content": "a"}])


def test_refusals_are_the_templates_own_words():
    with pytest.raises(ChatTemplateError, match="角色不对"):
        ChatTemplate("{{ raise_exception('角色不对') }}").render([{"role": "user", "content": "a"}])
