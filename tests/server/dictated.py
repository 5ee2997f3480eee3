"""A model that writes what it is dictated: the answer stands in the question. With the shapes that tests ask about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

MARK, END = "照写:", "<|im_end|>"
NAME = "scribe"

TEMPLATE = """\
{%- for tool in tools or [] %}<|im_start|>tool
{{ tool | tojson }}<|im_end|>
{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %}
<think>{{ message.reasoning_content }}</think>{% endif %}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if reasoning_effort is defined %}effort={{ reasoning_effort }}
{% endif %}
{%- if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}
{%- endif %}"""

# Off its script the model writes texts as long as it may.
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "查天气",
        "description": "今天的天气",
        "parameters": {
            "type": "object",
            "properties": {"城市": {"type": "string", "maxLength": 8}, "天数": {"type": "integer"}},
            "required": ["城市"],
            "additionalProperties": False,
        },
    },
}
SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "maxLength": 8}},
            "required": ["query"],
            "additionalProperties": False,
        },
    },
}
TOOLS = [WEATHER, SEARCH]


def script(prompt: str) -> str:
    """What was dictated last."""
    _, mark, rest = prompt.rpartition(MARK)
    return rest.partition(END)[0] if mark else "没有人口授。"


def ask(answer: str) -> list[Any]:
    """Messages to which the model answers so."""
    return [{"role": "user", "content": MARK + answer}]


def hermes(name: str, arguments: Mapping[str, Any] | str) -> str:
    """A call as Hermes and Qwen write it."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>'


def thought(text: str, answer: str) -> str:
    return f"<think>\n{text}\n</think>\n\n{answer}"


def post(client: httpx.Client, answer: str, path: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    """The body of a good answer to a request for ``answer``."""
    body = {"temperature": 0, **fields}
    body.setdefault(*(("input", MARK + answer) if path == "/v1/responses" else ("messages", ask(answer))))
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def choice(client: httpx.Client, answer: str, **fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = post(client, answer, **fields)["choices"][0]
    return result


def refusal(client: httpx.Client, path: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    """The error of a request that is refused with 400 in OpenAI's shape, streamed or not."""
    messages: dict[str, Any] = {"input": "x"} if path == "/v1/responses" else {"messages": ask("x")}
    response = client.post(path, json={**messages, **fields})
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "BadRequestError" and error["code"] == 400
    return error


def stream(client: httpx.Client, answer: str, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, after checking each byte of the framing."""
    body = {"messages": ask(answer), "temperature": 0, **fields, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        data = b"".join(response.iter_bytes())
        assert response.status_code == 200, data
    return chunks_of(data)


def chunks_of(data: bytes) -> list[dict[str, Any]]:
    assert b"\r" not in data and data.endswith(b"\n\n")
    *frames, last = data[:-2].split(b"\n\n")
    assert last == b"data: [DONE]"
    for frame in frames:
        assert frame.startswith(b"data: {") and b"\n" not in frame
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def deltas(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    """The deltas of one choice, after checking what holds for every stream."""
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    first, *middle, last = choices
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert last["delta"] == {} and last["finish_reason"]
    for each in middle:
        assert each["finish_reason"] is None and "stop_reason" not in each
        assert None not in each["delta"].values()
        assert each["delta"], "no chunk says nothing"
    return [each["delta"] for each in middle]


def assembled(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The message that a client makes of a stream."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    calls: list[dict[str, Any]] = []
    for delta in deltas(chunks, index):
        assert len(delta.keys() & {"content", "reasoning", "tool_calls"}) == 1, "one kind a chunk"
        for key in ("content", "reasoning", "reasoning_content"):
            if key in delta:
                assert delta[key], "no empty text"
                message[key] = message.get(key, "") + delta[key]
        for piece in delta.get("tool_calls", ()):
            take_piece(calls, piece)
    if calls:
        message |= {"tool_calls": calls, "content": message["content"] or None}
    return message


def take_piece(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    if "id" in piece:
        assert set(piece) == {"index", "id", "type", "function"} and piece["function"]["arguments"] == ""
        assert piece["index"] == len(calls), "calls come one after another"
        calls.append({"id": piece["id"], "type": "function", "function": dict(piece["function"])})
    else:
        assert set(piece) == {"index", "function"} and set(piece["function"]) == {"arguments"}
        assert piece["index"] == len(calls) - 1, "never interleaved"
        calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
