"""Java's offer of h2c: the server ignores it and reads the whole request, whichever way its bytes come."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from carrel_server.http_protocol import IgnoreUpgradeProtocol, WireLimits
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
    answer = raw_exchange(url, [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"], until=b"}}")
    assert answer.startswith(b"HTTP/1.1 400") and b'"type":"BadRequestError"' in answer


def test_expect_100_continue(url: str) -> None:
    """curl waits for it with a body over a megabyte."""
    request = head(extra=OFFER + b"Expect: 100-continue\r\n")
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(BODY)
        answer = b""
        while EXPECTED not in answer:
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")


class Strict(IgnoreUpgradeProtocol):
    limits = WireLimits(max_head_bytes=2000, head_timeout=0.3, stall_timeout=0.3)


@pytest.fixture(scope="module")
def strict_url() -> Iterator[str]:
    with running(echo, protocol=Strict) as address:
        yield address


@pytest.mark.parametrize("line", [b"/" + b"a" * 3000, b"/ HTTP/1.1\r\nX: " + b"a" * 3000])
def test_a_head_over_the_limit(strict_url: str, line: bytes) -> None:
    answer = raw_exchange(strict_url, [b"GET " + line], until=b"}}")
    assert answer.startswith(b"HTTP/1.1 431") and b"over 2000 bytes" in answer
    assert b"\r\nx-request-id: req-" in answer


def test_a_head_within_the_limit_may_come_with_a_long_body(strict_url: str) -> None:
    body = b"b" * 300_000
    start = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert raw_exchange(strict_url, [start, body], until=body + b"\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"\r\n"])
def test_a_head_that_does_not_come(strict_url: str, start: bytes) -> None:
    begun = time.monotonic()
    assert raw_exchange(strict_url, [start], until=b"never") == b""
    assert time.monotonic() - begun < 5


def test_a_body_that_drips_behind_its_answer() -> None:
    """A wrong key is told at once; who goes on sending drop by drop is not listened to for ever."""

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with running(refuse, protocol=Strict) as url, pytest.raises(ConnectionError):
        begun = time.monotonic()
        raw_exchange(url, [head(), *[b"x"] * 100], until=b"never", pause=0.05)
        raise AssertionError(f"listened to for {time.monotonic() - begun} seconds")


def test_chunks_of_nothing(strict_url: str) -> None:
    """Extensions and trailers cost memory too."""
    chunk = b"1;" + b"x" * 1000 + b"\r\na\r\n"
    with pytest.raises(ConnectionError):
        raw_exchange(strict_url, [head(length=False), *[chunk] * 20_000], until=b"never", pause=0.0)


def test_a_reader_that_stops() -> None:
    """It holds no more than the buffers, is given up after a while, and nobody else waits for it."""
    written: list[int] = []
    ended = threading.Event()

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/flood":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watcher = asyncio.ensure_future(receive())
        await receive()
        while not watcher.done() or watcher.result()["type"] != "http.disconnect":
            watcher = asyncio.ensure_future(receive()) if watcher.done() else watcher
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            written.append(10_000)
            await asyncio.sleep(0)
        ended.set()

    with running(flood, protocol=Strict, send_buffer=8192) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((host, int(port)))
            lazy.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw_exchange(url, [head() + BODY], until=EXPECTED).endswith(EXPECTED), "others go on"
            assert ended.wait(10)
    assert sum(written) < 1_000_000


def test_a_slow_reader_is_waited_for() -> None:
    size = 400_000

    async def long(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    with running(long, protocol=Strict, send_buffer=8192) as url, socket.socket() as slow:
        host, port = url.removeprefix("http://").split(":")
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(10)
        slow.connect((host, int(port)))
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        number, begun = 0, time.monotonic()
        while number < size:
            piece = slow.recv(20_000)
            assert piece, "given up"
            number += piece.count(b"x")
            time.sleep(0.02)
    assert time.monotonic() - begun > 0.3


def test_who_leaves_before_the_first_of_two_answers() -> None:
    """Both requests came in one go; the first is told that nobody waits."""
    told = threading.Event()

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if scope["path"] == "/first":
            told.set()

    with running(patient) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.05)
            connection.sendall(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.05)
        assert told.wait(5)
