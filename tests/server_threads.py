"""Runs an ASGI app on a real loopback socket, in a thread of this process, on a free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from carrel_server.http_protocol import IgnoreUpgradeProtocol


@contextmanager
def running(
    app: Any, *, protocol: type[IgnoreUpgradeProtocol] = IgnoreUpgradeProtocol, send_buffer: int = 0
) -> Iterator[str]:
    """The base URL of the app, which listens until the block ends. ``send_buffer``: bytes that the kernel takes from
    the server before a client reads any; 0: its own choice."""
    listener = socket.socket()
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True  # clients of the tests may leave connections open
        thread.join(10)
        listener.close()
    assert not thread.is_alive()


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true; an error when it does not become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def raw_exchange(url: str, parts: list[bytes], *, until: bytes, pause: float = 0.02) -> bytes:
    """Send ``parts`` as TCP segments of their own; what comes back, up to and with ``until``."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while until not in answer and (data := connection.recv(65536)):
            answer += data
    return answer
