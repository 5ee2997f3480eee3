"""What the model of these tests says, and the template that it is asked with: a librarian who looks things up."""

from __future__ import annotations

import re

API_KEY = "key-of-the-reading-room"
CHAT, EMBED, RERANK = "tiny-chat", "tiny-embed", "tiny-rerank"

LOANS = "一个读者可以借几本书?"
LOANS_ANSWER = "每位读者最多可以借十本书,借期三十天。"
WEATHER = "北京的天气怎么样?"
TWO_CITIES = "北京和上海哪里冷?"
WEATHER_REPORT = "北京今天晴,零下三度。"
CARELESS = "天气怎么样,用开尔文?"  # its call has a field that the tool has not
BOOK = "请推荐一本书。"
BOOK_JSON = '{"title": "红楼梦", "year": 1791}'
THINK = "想一想再说:一加一等于几?"
THOUGHT, THOUGHT_ANSWER = "一个加一个,就是两个。", "等于二。"
LONG = "从一数到很多。"
LONG_TOKENS = 1000  # its answer has more
DEFAULT = "我是图书馆的助手。"


def call(name: str, arguments: str) -> str:
    """A tool call as Hermes and Qwen write it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


ANSWERS = {
    LOANS: LOANS_ANSWER,
    "ping": "pong",
    WEATHER: call("get_weather", '{"city": "北京"}'),
    TWO_CITIES: call("get_weather", '{"city": "北京"}') + "\n" + call("get_weather", '{"city": "上海"}'),
    CARELESS: call("get_weather", '{"city": "北京", "unit": "K"}'),
    "</tool_response>": WEATHER_REPORT,
    BOOK: BOOK_JSON,
    THINK: f"<think>\n{THOUGHT}\n</think>\n\n{THOUGHT_ANSWER}",
    LONG: "、".join(f"第{number}本" for number in range(1, 400)),
}


def script(prompt: str) -> str:
    """The answer to the last thing that was asked."""
    asked = max(ANSWERS, key=prompt.rfind)
    if asked == BOOK and (tool := re.search(r'<tools>.*?"name": "(\w+)"', prompt, re.DOTALL)):
        return call(tool[1], BOOK_JSON)
    return ANSWERS[asked] if asked in prompt else DEFAULT


TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call these functions:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
A call is written so:
<tool_call>
{"name": …, "arguments": …}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content or "" }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}
{%- endif %}"""

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "今天的天气",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
BOOK_SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
    "required": ["title", "year"],
    "additionalProperties": False,
}
