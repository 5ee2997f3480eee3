"""Every field of every body with values that it was not made for: a clear refusal or an answer, never a 5xx."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from carrel_server.app import ENDPOINTS

GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
    "/v1/responses": {"input": "hi", "max_output_tokens": 1},
    "/v1/completions": {"prompt": "hi", "max_tokens": 1},
    "/v1/embeddings": {"input": "hi"},
    "/rerank": {"query": "hi", "documents": ["a", "b"]},
    "/score": {"text_1": "a", "text_2": ["b", "c"]},
    "/pooling": {"input": "hi"},
    "/classify": {"input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [5]},
}
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    0.5,
    1e308,
    2**70,
    -(2**63) - 1,
    "",
    " ",
    "x",
    "NaN",
    "\x00\ud7ff😀",
    [],
    [[]],
    [None],
    ["a", 1],
    {},
    {"type": "x", "text": 5},
    [{"role": "user"}],
    [{"role": "tool", "content": [{"type": "text"}], "tool_calls": [5]}],
    [{"role": "user", "content": "x", "tool_calls": 5}],
]


@pytest.mark.parametrize("path", GOOD)
def test_no_value_breaks_a_route(client: httpx.Client, path: str) -> None:
    body = next(endpoint.body for endpoint in ENDPOINTS if endpoint.path == path)
    assert body is not None
    for name in (*body.model_fields, *body.not_yet):
        for value in ODD:
            try:
                answer = client.post(path, json={**GOOD[path], name: value})
            except UnicodeEncodeError:
                continue
            assert answer.status_code in (200, 400, 404), (name, value, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"], (name, value)
    assert client.post(path, json=GOOD[path]).status_code == 200
