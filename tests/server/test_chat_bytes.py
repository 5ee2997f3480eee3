"""Whole answers and streams as they go over the wire, byte by byte but for what differs each time."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from dictated import MARK, TOOLS, ask, hermes, thought

HEAD = '"object":"chat.completion.chunk","id":"…","created":0,"model":"scribe"'


def wire(client: httpx.Client, path: str, **body: Any) -> str:
    """What came, with ids, times and counts made the same."""
    answer = client.post(path, json={"model": "scribe", "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    text = re.sub(r'"(created|created_at)":\d+', r'"\1":0', answer.content.decode())
    text = re.sub(r'"((?:prompt|cached|total|input)_tokens)":\d+', r'"\1":0', text)
    return re.sub(r'"((?:chatcmpl-|call_|resp_|msg_|fc_|rs_)[\w-]+)"', '"…"', text)


def frames(*choices: str) -> str:
    return "".join(f"data: {{{HEAD},{choice}}}\n\n" for choice in choices) + "data: [DONE]\n\n"


def delta(delta: str, end: str = '"finish_reason":null') -> str:
    return f'"choices":[{{"index":0,"delta":{delta},"logprobs":null,{end}}}]'


ROLE = delta('{"role":"assistant","content":""}')


def stop(reason: str) -> str:
    return delta("{}", f'"finish_reason":"{reason}","stop_reason":null')


def merged(text: str, keys: tuple[str, ...]) -> str:
    """Deltas of one kind made one: where a text is cut says the tokenizer, not this test."""
    result: list[Any] = []
    for frame in text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
        event = json.loads(frame.removeprefix("data: "))
        last = result[-1]["choices"][0]["delta"] if result and result[-1]["choices"] else {}
        news = event["choices"][0]["delta"] if event["choices"] else {}
        if news and set(news) == set(last) and set(news) <= set(keys):
            for key in keys:
                if key in news:
                    last[key] = joined(last[key], news[key])
        else:
            result.append(event)
    lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in result]
    return "".join(f"data: {line}\n\n" for line in lines) + "data: [DONE]\n\n"


def joined(one: Any, other: Any) -> Any:
    if isinstance(one, str):
        return one + other
    if (
        one[0]["index"] == other[0]["index"]
        and set(other[0]) == {"index", "function"}
        and set(one[0]) == {"index", "function"}
    ):
        function = {"arguments": one[0]["function"]["arguments"] + other[0]["function"]["arguments"]}
        return [{**one[0], "function": function}]
    return one


def test_words(scribe: httpx.Client) -> None:
    text = wire(scribe, "/v1/chat/completions", messages=ask("九点。"), stream=True)
    assert merged(text, ("content",)) == frames(ROLE, delta('{"content":"九点。"}'), stop("stop"))


def test_thoughts(scribe: httpx.Client) -> None:
    text = wire(scribe, "/v1/chat/completions", messages=ask(thought("想。", "好。")), stream=True)
    assert merged(text, ("content", "reasoning", "reasoning_content")) == frames(
        ROLE, delta('{"reasoning":"想。","reasoning_content":"想。"}'), delta('{"content":"好。"}'), stop("stop")
    )


def test_usage(scribe: httpx.Client) -> None:
    options = {"include_usage": True}
    text = wire(scribe, "/v1/chat/completions", messages=ask("好"), stream=True, stream_options=options)
    counts = r'"prompt_tokens":0,"total_tokens":0,"completion_tokens":\d+,"prompt_tokens_details":\{"cached_tokens":0\}'
    *chunks, usage, done, end = text.split("\n\n")
    assert all(chunk.endswith(',"usage":null}') for chunk in chunks)
    assert re.fullmatch(re.escape(f'data: {{{HEAD},"choices":[],"usage":{{') + counts + r"\}\}", usage)
    assert (done, end) == ("data: [DONE]", "")


def test_the_first_deltas_of_a_call(scribe: httpx.Client) -> None:
    call = hermes("search", '{"query": "借书"}')
    text = wire(scribe, "/v1/chat/completions", messages=ask(call), tools=TOOLS, stream=True)
    first = '{"tool_calls":[{"index":0,"id":"…","type":"function","function":{"name":"search","arguments":""}}]}'
    assert text.startswith(frames(ROLE, delta(first)).removesuffix("data: [DONE]\n\n"))
    arguments = r'\{"tool_calls":\[\{"index":0,"function":\{"arguments":"(.*)"\}\}\]\}'
    pieces = [match[1] for match in re.finditer(arguments, text)]
    assert json.loads(json.loads(f'"{"".join(pieces)}"')) == {"query": "借书"}
    assert text.endswith(frames(stop("tool_calls")))


def test_a_whole_answer(scribe: httpx.Client) -> None:
    call = hermes("search", '{"query": "借书"}')
    text = wire(scribe, "/v1/chat/completions", messages=ask(thought("想。", call)), tools=TOOLS)
    answer = text.partition(',"usage"')[0]
    assert answer == (
        '{"object":"chat.completion","id":"…","created":0,"model":"scribe","choices":[{"index":0,"message":'
        '{"role":"assistant","content":null,"refusal":null,"reasoning":"想。","reasoning_content":"想。","tool_calls":'
        '[{"id":"…","type":"function","function":{"name":"search","arguments":"{\\"query\\": \\"借书\\"}"}}]},'
        '"logprobs":null,"finish_reason":"tool_calls","stop_reason":null}]'
    )


def test_the_loop_that_is_copied_everywhere(scribe: httpx.Client) -> None:
    """It splits lines at ": ", wants choices in each event, and stops at finish_reason "stop"."""
    body = {"messages": ask("第一: 第二"), "stream": True}
    text = ""
    with scribe.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not line:
                continue
            data = json.loads(line.split(": ", 1)[1])
            if data["choices"][0]["finish_reason"] == "stop":
                break
            text += data["choices"][0]["delta"].get("content", "")
    assert text == "第一: 第二"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_headers_of_streams(scribe: httpx.Client, path: str) -> None:
    body = {"messages": ask("好"), "input": MARK + "好", "stream": True}
    headers = scribe.post(path, json=body).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["x-accel-buffering"] == "no" and headers["cache-control"] == "no-cache"
    assert "content-length" not in headers


def test_events_of_a_response(scribe: httpx.Client) -> None:
    text = wire(scribe, "/v1/responses", input=MARK + "好", stream=True)
    first, *_ = text.split("\n\n")
    response = (
        '{"id":"…","object":"response","created_at":0,"status":"in_progress","background":false,"error":null,'
        '"incomplete_details":null,"instructions":null,"max_output_tokens":null,"metadata":{},"model":"scribe",'
        '"output":[],"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":null,"summary":null},'
        '"store":false,"temperature":0.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],'
        '"top_logprobs":0,"top_p":1.0,"truncation":"disabled","usage":null}'
    )
    assert first == (
        f'event: response.created\ndata: {{"type":"response.created","sequence_number":0,"response":{response}}}'
    )
    assert "[DONE]" not in text
