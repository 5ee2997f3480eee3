"""The event decoder: any split of the bytes gives the same events, and only LF ends a line."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from carrel_client import ServerError
from carrel_client.sse import EventDecoder
from carrel_client.wire import StreamReader
from hypothesis import given
from hypothesis import strategies as st

TEXTS = ["分页", "\u2028注意\u0085力", "🙂", "a\r\nb"]


def stream_of(texts: list[str]) -> bytes:
    deltas = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    chunks = [{"model": "m", "choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}]}
    usage = {"model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}
    events = [json.dumps(chunk, ensure_ascii=False) for chunk in (*chunks, end, usage)]
    return "".join([": ping\n\n", *(f"data: {event}\n\n" for event in events), "data: [DONE]\n\n"]).encode()


@given(st.lists(st.integers(0, len(stream_of(TEXTS)))))
def test_any_split_reads_the_same(cuts: list[int]) -> None:
    data, decoder, reader, texts = stream_of(TEXTS), EventDecoder(), StreamReader(), []
    for start, end in pairwise([0, *sorted(cuts), len(data)]):
        texts += [piece.delta for piece in reader.pieces(decoder.feed(data[start:end]))]
    reply = reader.end().reply
    assert reply is not None
    assert texts == TEXTS
    assert (reply.text, reply.finish_reason, reply.model) == ("".join(TEXTS), "stop", "m")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 4)


def test_an_error_in_the_stream_is_raised_with_its_message() -> None:
    with pytest.raises(ServerError, match="the model failed"):
        list(StreamReader().pieces(['{"error": {"message": "the model failed", "code": 500}}']))


def test_a_stream_that_broke_off_is_not_complete() -> None:
    reader = StreamReader()
    list(reader.pieces(['{"choices": [{"delta": {"content": "半"}, "finish_reason": null}]}']))
    assert not reader.complete
