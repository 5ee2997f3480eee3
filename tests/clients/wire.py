"""A relay between a client and a server that remembers what the client sent, one entry for each connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Wire:
    """``url`` leads to the server; ``connections`` holds the bytes that came, by connection."""

    url: str = ""
    connections: list[bytearray] = field(default_factory=list)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray | None = None) -> None:
    try:
        while data := await reader.read(65536):
            if record is not None:
                record += data
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # one side has left; the other is told by the close
    finally:
        writer.close()


@contextmanager
def recorded(server_url: str) -> Iterator[Wire]:
    """A wire to ``server_url``, on a free port of its own, until the block ends."""
    wire, loop, ready = Wire(), asyncio.new_event_loop(), threading.Event()
    host, port = server_url.removeprefix("http://").split(":")

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections.append(record := bytearray())
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, back, record), pump(there, writer))

    async def serve() -> None:
        stop = asyncio.Event()
        wire.stop = lambda: loop.call_soon_threadsafe(stop.set)  # type: ignore[attr-defined]
        async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
            wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield wire
    wire.stop()  # type: ignore[attr-defined]
    thread.join(10)
    loop.close()
