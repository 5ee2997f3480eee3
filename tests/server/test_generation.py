"""Merging streams, waiting for the first token, and closing what nobody reads. No engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from carrel.errors import InvalidParamsError
from carrel_server.generation import final_outputs, started_stream
from carrel_server.merge import merge


class Source:
    """A stream of numbers that records whether it was closed."""

    def __init__(self, numbers: list[int], *, pause: float = 0.0, error: Exception | None = None) -> None:
        self.closed = False
        self.stream = cast(Any, self._numbers(numbers, pause, error))

    async def _numbers(self, numbers: list[int], pause: float, error: Exception | None) -> AsyncGenerator[int, None]:
        try:
            for number in numbers:
                await asyncio.sleep(pause)
                yield number
            if error is not None:
                raise error
        finally:
            self.closed = True


async def test_merge_gives_every_item_once_in_the_order_of_each() -> None:
    sources = [Source([1, 2, 3]), Source([10], pause=0.01), Source([])]
    items = [item async for item in merge([source.stream for source in sources])]
    assert sorted(items) == [(0, 1), (0, 2), (0, 3), (1, 10)]
    assert [number for index, number in items if index == 0] == [1, 2, 3]
    assert all(source.closed for source in sources[:2])


async def test_an_error_ends_the_others() -> None:
    bad, slow = Source([1], error=InvalidParamsError("no")), Source([1, 2], pause=5.0)
    with pytest.raises(InvalidParamsError):
        await final_outputs([bad.stream, slow.stream])
    assert bad.closed and slow.closed


async def test_final_outputs_are_the_last_of_each() -> None:
    assert cast(Any, await final_outputs([Source([1, 2]).stream, Source([5]).stream])) == [2, 5]


@pytest.mark.parametrize("number", [1, 2])
async def test_what_the_engine_refuses_is_raised_before_the_stream_starts(number: int) -> None:
    sources = [Source([], error=InvalidParamsError("no")) for _ in range(number)]
    with pytest.raises(InvalidParamsError):
        await started_stream([source.stream for source in sources])


async def test_a_slow_first_token_does_not_hold_the_headers_back() -> None:
    source = Source([7, 8], pause=0.05)
    stream = await started_stream([source.stream], patience=0.0)
    assert [item async for item in stream] == cast(Any, [(0, 7), (0, 8)])
    await stream.aclose()


@pytest.mark.parametrize("patience", [0.0, 5.0])
async def test_a_stream_that_nobody_reads_is_closed(patience: float) -> None:
    source = Source([1, 2], pause=0.01)
    stream = await started_stream([source.stream], patience=patience)
    await asyncio.sleep(0)
    await stream.aclose()
    assert source.closed


async def test_cancelled_while_waiting() -> None:
    source = Source([1], pause=5.0)
    task = asyncio.ensure_future(started_stream([source.stream]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed
