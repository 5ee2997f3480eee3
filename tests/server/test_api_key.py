"""The API key: every route that exists is closed without it, but health."""

from __future__ import annotations

import httpx
import pytest
from carrel.async_llm import AsyncLLM
from carrel.errors import InvalidParamsError
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from carrel_server.auth import OPEN_PATHS
from server_threads import raw_exchange, running

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "QUERY")
BAD_HEADERS = ({}, {"Authorization": "Bearer wrong"}, {"api-key": "wrong"}, {"x-api-key": ""})


def test_every_registered_route(key_url: str, host: EngineHost) -> None:
    paths = {
        getattr(route, "path", "").replace("{name:path}", "tiny-chat")
        for route in create_app(AsyncLLM(host=host)).routes
    }
    assert {"/v1/chat/completions", "/rerank", "/tokenize", "/metrics", "/docs", "/openapi.json", "/api/chat"} <= paths
    with httpx.Client(base_url=key_url) as client:
        for path in paths - OPEN_PATHS:
            for method in METHODS:
                for headers in BAD_HEADERS if method in ("GET", "POST") else BAD_HEADERS[:1]:
                    assert client.request(method, path, headers=headers).status_code == 401, (method, path)
        for path in OPEN_PATHS:
            assert client.get(path).status_code == 200


def test_a_key_in_the_query_is_none(key_url: str) -> None:
    assert httpx.get(key_url + "/v1/models?api_key=first-key&key=first-key").status_code == 401


@pytest.mark.parametrize(
    "target", ["http://x/health", "*", "/health?a=/v1/models", "//health", "/health/", "/health%2f"]
)
def test_odd_targets(key_url: str, target: str) -> None:
    """As they stand in the request line; none of them opens a route that needs the key."""
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    status = raw_exchange(key_url, [request], until=b"\r\n").split()[1]
    assert status in (b"401", b"400", b"200")
    assert status != b"200" or target in ("http://x/health", "/health?a=/v1/models")


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


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
def test_headers_of_other_clients(key_url: str, name: str) -> None:
    """Anthropic's and Azure's."""
    assert httpx.get(key_url + "/v1/models", headers={name: "first-key"}).status_code == 200
    assert httpx.get(key_url + "/v1/models", headers={name: "first"}).status_code == 401
    both = {name: "first-key", "Authorization": "Bearer wrong"}
    assert httpx.get(key_url + "/v1/models", headers=both).status_code == 200, "one that is right is enough"


def test_the_key_is_asked_for_before_anything_is_read(key_url: str) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n{"
    assert raw_exchange(key_url, [head], until=b"}}").startswith(b"HTTP/1.1 401")


def test_keys_that_are_replaced(host: EngineHost) -> None:
    app = create_app(AsyncLLM(host=host), ServerSettings(api_keys=("old",)))
    with running(app) as url:

        def status(key: str) -> int:
            return httpx.get(url + "/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

        assert (status("old"), status("new")) == (200, 401)
        app.state.keys.replace(["new", "newer"])
        assert (status("old"), status("new"), status("newer")) == (401, 200, 200)


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(InvalidParamsError, match="API key is empty"):
        ServerSettings(api_keys=("key", " "))


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
