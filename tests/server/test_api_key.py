"""The API key: every route that exists is closed without it, but health."""

from __future__ import annotations

import httpx
import pytest
from carrel.async_llm import AsyncLLM
from carrel.host import EngineHost
from carrel_server import create_app
from carrel_server.auth import OPEN_PATHS


def test_every_registered_route(key_url: str, host: EngineHost) -> None:
    paths = {
        getattr(route, "path", "").replace("{name:path}", "tiny-chat")
        for route in create_app(AsyncLLM(host=host)).routes
    }
    assert {"/v1/chat/completions", "/rerank", "/tokenize", "/metrics", "/docs", "/openapi.json"} <= paths
    with httpx.Client(base_url=key_url) as client:
        for path in paths - OPEN_PATHS:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
                assert client.request(method, path).status_code == 401, (method, path)
        for path in OPEN_PATHS:
            assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/v1/../v1/models", "//v1/models", "/V1/models", "/health/../v1/models", "/healthz"])
def test_paths_that_only_look_open(key_url: str, path: str) -> None:
    assert httpx.get(key_url + path).status_code == 401


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Bearer first-ke", 401),
        ("first-key", 401),
        ("Basic first-key", 401),
        ("Bearer first-key", 200),
        ("bearer   first-key", 200),
        ("Bearer schlüssel", 200),
    ],
)
def test_headers(key_url: str, header: str | None, status: int) -> None:
    headers = {} if header is None else {b"Authorization": header.encode()}
    answer = httpx.get(key_url + "/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 401:
        error = answer.json()["error"]
        assert error["code"] == 401 and error["type"] == "AuthenticationError"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer anything"])
def test_without_keys_any_header_is_fine(client: httpx.Client, header: str) -> None:
    assert client.get("/v1/models", headers={"Authorization": header}).status_code == 200


def test_holders_of_different_keys_share_no_prefix_cache(key_url: str) -> None:
    """The time to the first token would tell one what the other asked."""
    body = {"messages": [{"role": "user", "content": "只有我知道的问题。" * 8}], "max_tokens": 1}

    def cached(key: str) -> int:
        headers = {b"Authorization": f"Bearer {key}".encode()}
        usage = httpx.post(key_url + "/v1/chat/completions", json=body, headers=headers).json()["usage"]
        number: int = usage["prompt_tokens_details"]["cached_tokens"]
        return number

    assert cached("first-key") == 0
    assert cached("first-key") > 0
    assert cached("schlüssel") == 0
