"""Engine outputs as routes want them: the last one, or a stream that the engine has accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from carrel.outputs import RequestOutput

from carrel_server.merge import merge

Item = tuple[int, RequestOutput]  # index of the stream, its news

PATIENCE = 5.0  # seconds for the first token; after them the headers go out, before a proxy gives the request up


async def final_output(outputs: AsyncIterator[RequestOutput]) -> RequestOutput:
    """The finished output. Cancelled before, it closes the stream, which aborts the request in the engine."""
    return (await final_outputs([outputs]))[0]


async def final_outputs(streams: Sequence[AsyncIterator[RequestOutput]]) -> list[RequestOutput]:
    """The finished outputs in the order of the streams."""
    async with aclosing(merge(streams)) as outputs:
        last = {index: output async for index, output in outputs}  # a later output replaces an earlier one
    return [last[index] for index in range(len(streams))]


class StartedStream(AsyncIterator[Item]):
    """Merged streams whose first item is there or awaited. Whoever gets one closes it, read or not."""

    def __init__(self, outputs: AsyncGenerator[Item, None]) -> None:
        self._outputs = outputs
        self._first: asyncio.Future[Item | None] | None = asyncio.ensure_future(anext(outputs, None))

    async def __anext__(self) -> Item:
        if self._first is None:
            return await anext(self._outputs)
        first, self._first = self._first, None
        item = await first
        if item is None:
            raise StopAsyncIteration
        return item

    async def started(self, patience: float) -> None:
        """Wait for the first item, but no longer than ``patience`` seconds; raises what the engine refused."""
        assert self._first is not None, "called once, before reading"
        await asyncio.wait({self._first}, timeout=patience)
        if self._first.done():
            self._first.result()

    async def aclose(self) -> None:
        if self._first is not None:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)
        await self._outputs.aclose()


async def started_stream(
    streams: Sequence[AsyncIterator[RequestOutput]], *, patience: float = PATIENCE
) -> StartedStream:
    """The merged streams, accepted by the engine: what it refuses is raised here, and still becomes a proper 4xx."""
    stream = StartedStream(merge(streams))
    try:
        await stream.started(patience)
    except BaseException:  # also a cancellation: nobody will read the stream
        await stream.aclose()
        raise
    return stream
