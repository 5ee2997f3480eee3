"""Work that ends when the client leaves. Knows ASGI's receive channel; does not know what the work is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from carrel_server.errors import HttpError
from carrel_server.request_record import current_record

T = TypeVar("T")


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away first. The body must have been read.

    Raises:
        ClientDisconnect: the client left; ``work`` has ended by then, so the engine has been told.
        HttpError: 503, the server ends before ``work`` does; 504, the request's time is over.
    """
    record = current_record()
    seconds = None if record is None else record.seconds_left
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        done, _ = await asyncio.wait({task, watcher}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise HttpError(504, "The request took longer than this server allows, and was ended (--request-timeout).")
        if not task.done():
            raise ClientDisconnect
        return task.result()
    except asyncio.CancelledError:  # only a server that ends cancels its requests
        raise HttpError(503, "The server is shutting down.") from None
    finally:
        await _stop(watcher)
        await _stop(task)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
