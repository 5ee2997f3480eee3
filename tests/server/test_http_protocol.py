"""Java's offer of h2c: the server ignores it and reads the whole request, whichever way its bytes come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server_threads import raw_exchange, running

BODY = '{"messages":[{"role":"user","content":"你好"}]}'.encode()
OFFER = (
    b"Connection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
    b"Upgrade: h2c\r\n"
)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with method, path and body; a GET has no body."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    names = {name for name, _ in scope["headers"]}
    assert b"upgrade" not in names
    answer = scope["method"].encode() + b" " + scope["path"].encode() + b" " + body + b"\n"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(echo) as address:
        yield address


def head(path: bytes = b"/v1/chat/completions", extra: bytes = OFFER, length: bool = True) -> bytes:
    size = b"Content-Length: %d\r\n" % len(BODY) if length else b"Transfer-Encoding: chunked\r\n"
    return b"POST " + path + b" HTTP/1.1\r\n" + extra + size + b"Host: localhost\r\nUser-Agent: Java\r\n\r\n"


EXPECTED = b"POST /v1/chat/completions " + BODY + b"\n"


def test_head_and_body_in_two_segments(url: str) -> None:
    answer = raw_exchange(url, [head(), BODY], until=EXPECTED)
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(EXPECTED)


def test_head_and_body_in_one_segment(url: str) -> None:
    assert raw_exchange(url, [head() + BODY], until=EXPECTED).endswith(EXPECTED)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_head_in_many_segments(url: str, size: int) -> None:
    request = head() + BODY
    parts = [request[i : i + size] for i in range(0, len(request), size)]
    assert raw_exchange(url, parts, until=EXPECTED, pause=0.0).endswith(EXPECTED)


def test_chunked_body(url: str) -> None:
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:5], BODY[5:])]
    answer = raw_exchange(url, [head(length=False), *chunks, b"0\r\n\r\n"], until=EXPECTED)
    assert answer.endswith(EXPECTED)


def test_the_connection_is_kept(url: str) -> None:
    """The second request, without an offer, and the third, with one, come over the same connection."""
    get = b"GET /health HTTP/1.1\r\n" + OFFER + b"Content-Length: 0\r\nHost: localhost\r\n\r\n"
    parts = [head(), BODY, head(b"/second", extra=b""), BODY, head(b"/third"), BODY, get]
    answer = raw_exchange(url, parts, until=b"GET /health \n")
    assert answer.count(b"HTTP/1.1 200") == 4
    assert b"POST /second " + BODY in answer and b"POST /third " + BODY in answer


def test_pipelined_in_one_segment(url: str) -> None:
    answer = raw_exchange(url, [head() + BODY + head(b"/second") + BODY], until=b"POST /second " + BODY)
    assert EXPECTED in answer and answer.count(b"HTTP/1.1 200") == 2


def test_a_websocket_offer_is_ignored_too(url: str) -> None:
    offer = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
    assert raw_exchange(url, [head(extra=offer), BODY], until=EXPECTED).endswith(EXPECTED)


def test_connect_is_refused(url: str) -> None:
    answer = raw_exchange(url, [b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"], until=b"proxy")
    assert answer.startswith(b"HTTP/1.1 400")


def test_no_http_at_all(url: str) -> None:
    assert raw_exchange(url, [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"], until=b"\r\n\r\n").startswith(b"HTTP/1.1 400")
