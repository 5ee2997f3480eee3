"""The least that a Python server costs for each streamed chunk: uvicorn with httptools, and bytes that are ready.

python benchmarks/bare_uvicorn.py NUM_CHUNKS
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvicorn

CHUNK = b"data: " + b'{"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}'.ljust(220) + b"\n\n"


class Bare:
    """Answers every request with the same chunks, one in each turn of the event loop."""

    def __init__(self, num_chunks: int) -> None:
        self._num_chunks = num_chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(self._num_chunks):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


def main() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)  # who connects before uvicorn accepts waits
        app = Bare(int(sys.argv[1]))
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_level="warning")
        print(f"ready at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
