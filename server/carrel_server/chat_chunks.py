"""Chunks of a chat stream as bytes. What is the same in each is written once, so that a token costs microseconds.

::

    data: {"object":"chat.completion.chunk","id":…,"created":…,"model":…,"choices":[{"index":0,"delta":  start
    {"content":"字"}                                                                                     the news
    ,"logprobs":null,"finish_reason":null}]}⏎⏎                                                           rest
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from carrel_server.json_response import dumps
from carrel_server.sse import frame

Usage = Mapping[str, Any]


class ChunkWriter:
    """The chunks of one answer. ``has_usage``: every chunk has the key, null if there is nothing to say.

    >>> ChunkWriter({"id": "x"}, 1).text(0, "字").decode()
    'data: {"object":"chat.completion.chunk","id":"x","choices":[{"index":0,"delta":{"content":"字"},"logprobs":null,\
"finish_reason":null}]}\\n\\n'
    """

    def __init__(self, head: Mapping[str, Any], num_choices: int, *, has_usage: bool = False) -> None:
        self._head = {"object": "chat.completion.chunk", **head}
        self._has_usage = has_usage
        start = b"data: " + dumps(self._head)[:-1] + b',"choices":[{"index":'
        self._starts = [start + b'%d,"delta":' % index for index in range(num_choices)]
        self._text_starts = [begin + b'{"content":' for begin in self._starts]
        end = b',"usage":null}\n\n' if has_usage else b"}\n\n"
        self._rest = b',"logprobs":null,"finish_reason":null}]' + end
        self._text_rest = b"}" + self._rest

    def text(self, index: int, text: str) -> bytes:
        """A piece of text and nothing else, as nearly every chunk is."""
        return self._text_starts[index] + orjson.dumps(text) + self._text_rest

    def delta(self, index: int, delta: Mapping[str, Any]) -> bytes:
        """A delta of any kind and nothing else."""
        return self._starts[index] + orjson.dumps(delta) + self._rest

    def choice(
        self,
        index: int,
        delta: Mapping[str, Any],
        *,
        logprobs: Any = None,
        finish_reason: str | None = None,
        usage: Usage | None = None,
        top: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> bytes:
        """A delta with whatever else was asked for; ``top`` stands beside the choices, ``extra`` in the choice."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason, **extra}
        event = {**self._head, "choices": [choice], **(top or {})}
        return frame({**event, "usage": usage} if self._has_usage else event)

    def usage(self, usage: Usage) -> bytes:
        """The last chunk, for those who asked for it."""
        return frame({**self._head, "choices": [], "usage": usage})
