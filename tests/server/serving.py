"""An engine that a test may fill or break, behind a server of its own; and requests whose answers nobody reads."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carrel.async_llm import AsyncLLM
from carrel.config import EngineConfig, ModelSpec
from carrel.host import EngineHost
from carrel_server import ServerSettings, create_app
from server_threads import running


@contextmanager
def own_server(
    *folders: Path, settings: ServerSettings | None = None, kv_cache_memory_bytes: int = 1 << 20, **options: Any
) -> Iterator[tuple[EngineHost, str]]:
    """The engine, and the URL of its server."""
    config = EngineConfig(device="cpu", kv_cache_memory_bytes=kv_cache_memory_bytes, **options)
    with (
        EngineHost([ModelSpec(name=str(folder)) for folder in folders], config) as engine,
        running(create_app(AsyncLLM(host=engine), settings)) as url,
    ):
        yield engine, url


def connect(url: str, *, receive_buffer: int = 0) -> socket.socket:
    """``receive_buffer``: bytes that the kernel takes before anybody reads them; 0: its own choice."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(20)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((host, int(port)))
    return connection


def open_request(url: str, path: str, body: dict[str, Any], *, receive_buffer: int = 0) -> socket.socket:
    """A request sent, its answer not read."""
    connection = connect(url, receive_buffer=receive_buffer)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection
