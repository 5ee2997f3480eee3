"""Engine outputs as routes want them: the last one, or a stream whose first item is there already."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from carrel.outputs import RequestOutput

from carrel_server.merge import merge

Outputs = AsyncGenerator[tuple[int, RequestOutput], None]


async def final_output(outputs: AsyncIterator[RequestOutput]) -> RequestOutput:
    """The finished output. Cancelled before, it closes the stream, which aborts the request in the engine."""
    return (await final_outputs([outputs]))[0]


async def final_outputs(streams: Sequence[AsyncIterator[RequestOutput]]) -> list[RequestOutput]:
    """The finished outputs in the order of the streams."""
    async with aclosing(merge(streams)) as outputs:
        last = {index: output async for index, output in outputs}  # a later output replaces an earlier one
    return [last[index] for index in range(len(streams))]


async def started_stream(streams: Sequence[AsyncIterator[RequestOutput]]) -> Outputs:
    """The merged streams, once the first output is there: what the engine refuses is still a proper 4xx then."""
    outputs = merge(streams)
    try:
        first = await anext(outputs, None)
    except BaseException:  # also a cancellation: nobody will read the stream
        await outputs.aclose()
        raise
    return _with_first(first, outputs)


async def _with_first(first: tuple[int, RequestOutput] | None, outputs: Outputs) -> Outputs:
    async with aclosing(outputs):
        if first is not None:
            yield first
        async for item in outputs:
            yield item
