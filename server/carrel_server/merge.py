"""Several async streams as one, in the order in which their items come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merge(streams: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T], None]:
    """``(index of the stream, item)`` until all have ended; the first error ends the rest. Closing closes all."""
    if len(streams) == 1:  # the common case needs no tasks
        try:
            async for item in streams[0]:
                yield 0, item
        finally:
            await _close([], streams)
        return
    tasks = {asyncio.ensure_future(_next(stream)): index for index, stream in enumerate(streams)}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=tasks.__getitem__):
                index = tasks.pop(task)
                result = task.result()
                if result is not None:
                    tasks[asyncio.ensure_future(_next(streams[index]))] = index
                    yield index, result[0]
    finally:
        await _close(list(tasks), streams)


async def _next(stream: AsyncIterator[T]) -> tuple[T] | None:
    """The next item in a 1-tuple; None at the end (a task must not raise StopAsyncIteration)."""
    try:
        return (await anext(stream),)
    except StopAsyncIteration:
        return None


async def _close(tasks: Sequence[asyncio.Future[tuple[T] | None]], streams: Sequence[AsyncIterator[T]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in streams:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
