"""A blocking iterator under asyncio: it runs on a thread of its own, one step at a time. Knows nothing of its items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
_END = object()


async def iterate_in_thread(iterator: Iterator[Item]) -> AsyncIterator[Item]:
    """The items of ``iterator``; when the loop over it is left, the iterator is closed on its own thread.

    Every step runs on the same thread, since generators may hold what belongs to a thread.
    """
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="carrel-rag")
    try:
        while (item := await loop.run_in_executor(executor, next, iterator, _END)) is not _END:
            yield item  # type: ignore[misc]  # next() gives an Item here: the end was sorted out
    finally:
        # After a cancellation a step may still run; the close stands behind it in the queue, and nobody waits for it.
        executor.submit(_close, iterator)
        executor.shutdown(wait=False)


def _close(iterator: Any) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
