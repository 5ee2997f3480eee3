"""Many streams at once with as little work in the client as can be: bytes in, times of arrival out."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(slots=True)
class Stream:
    """What came of one request."""

    sent: float
    status: int = 0
    events: list[float] = field(default_factory=list)  # when each event came, the last one is [DONE]
    done: bool = False

    @property
    def num_chunks(self) -> int:
        return len(self.events)


async def read_stream(url: str, path: str, body: dict[str, Any]) -> Stream:
    """One POST on a connection of its own."""
    parts = urlsplit(url)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    stream = Stream(time.perf_counter())
    try:
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        stream.status = int((await reader.readline()).split()[1])
        while await reader.readline() not in (b"\r\n", b""):
            pass
        while not stream.done and (line := await reader.readline()):
            if line.startswith(b"data: "):
                stream.events.append(time.perf_counter())
                stream.done = line == b"data: [DONE]\n"
    finally:
        writer.close()
        await writer.wait_closed()
    return stream


async def read_streams(url: str, path: str, bodies: list[dict[str, Any]]) -> list[Stream]:
    """All at once."""
    return await asyncio.gather(*(read_stream(url, path, body) for body in bodies))
