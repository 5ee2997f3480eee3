"""Runs jobs for coroutines. One mailbox for each event loop: a step wakes a loop once, however many requests it has.

The engine's thread only hands the news over; they are taken in (text, stop strings) in the event loop that waits.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, TypeVar

from carrel.jobs import Job
from carrel.loop import EngineLoop
from carrel.step import EngineOutput

T = TypeVar("T")
MAX_IN_FLIGHT = 8192  # requests of one call; one call must not fill the engine's queue


class EventLoopMailbox:
    """Everything that one event loop waits for. All methods but :meth:`deliver` belong to that loop's thread."""

    def __init__(self, engine: EngineLoop, event_loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._event_loop = weakref.ref(event_loop)  # a loop that nobody runs any more must be free to go
        self._waiters: dict[str, Waiter] = {}  # by id of each request that has not ended

    def deliver(self, outputs: list[EngineOutput]) -> None:
        """Called by the engine's thread. Raises if the event loop is gone: then the engine drops its requests."""
        event_loop = self._event_loop()
        if event_loop is None:
            raise RuntimeError("the event loop that waited is gone")
        event_loop.call_soon_threadsafe(self._hand_out, outputs)

    def submit(self, jobs: Sequence[Job[Any]]) -> Waiter:
        waiter = Waiter(self, jobs)
        requests = [request for job in jobs for request in job.requests]
        self._engine.submit(requests, self)
        # The news cannot come before this line is through: they are handed out by this very thread.
        self._waiters |= {request.request_id: waiter for request in requests}
        return waiter

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests that have not ended; their news will be dropped."""
        if unfinished := [id_ for id_ in request_ids if self._waiters.pop(id_, None) is not None]:
            self._engine.abort(unfinished)

    def _hand_out(self, outputs: list[EngineOutput]) -> None:
        news: dict[Waiter, list[EngineOutput]] = {}
        for output in outputs:
            waiter = self._waiters.get(output.request_id)
            if waiter is not None:
                news.setdefault(waiter, []).append(output)
                if output.finished:
                    del self._waiters[output.request_id]
        for waiter, its_news in news.items():
            waiter.feed(its_news)


class Waiter:
    """One coroutine that waits for one or many jobs."""

    def __init__(self, mailbox: EventLoopMailbox, jobs: Sequence[Job[Any]]) -> None:
        self._mailbox = mailbox
        self._job_of = {request.request_id: job for job in jobs for request in job.requests}
        self._woken = asyncio.Event()

    def feed(self, outputs: list[EngineOutput]) -> None:
        news: dict[Job[Any], list[EngineOutput]] = {}
        for output in outputs:
            news.setdefault(self._job_of[output.request_id], []).append(output)
        for job, its_news in news.items():
            self._mailbox.abort(job.feed(its_news))
        self._woken.set()

    async def wait(self) -> None:
        """Until there was news since the last call."""
        await self._woken.wait()
        self._woken.clear()

    def abandon(self) -> None:
        for job in dict.fromkeys(self._job_of.values()):
            job.abandon()
        self._mailbox.abort(self._job_of)


class AsyncRunner:
    """Runs jobs in whatever event loop calls."""

    def __init__(self, engine: EngineLoop) -> None:
        self._engine = engine
        self._mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, EventLoopMailbox] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()  # event loops live in different threads

    async def run(self, jobs: Sequence[Job[T]]) -> list[T]:
        """All jobs at once, as far as they fit; results in their order.

        The first that fails, or a cancellation, ends the others.
        """
        results: list[T] = []
        for start in range(0, len(jobs), MAX_IN_FLIGHT):
            results += await self._run_together(jobs[start : start + MAX_IN_FLIGHT])
        return results

    async def _run_together(self, jobs: Sequence[Job[T]]) -> list[T]:
        waiter = self._mailbox().submit(jobs)
        results: dict[Job[T], T] = {}
        pending: Sequence[Job[T]] = jobs
        try:
            while pending:
                await waiter.wait()
                for job in pending:
                    if job.finished and (result := job.take()) is not None:
                        results[job] = result
                pending = [job for job in pending if not job.finished]
        finally:
            waiter.abandon()
        return [results[job] for job in jobs]

    async def stream(self, job: Job[T]) -> AsyncGenerator[T, None]:
        """What the job has to show, as it comes. Leaving the loop, or a cancellation, aborts the job."""
        waiter = self._mailbox().submit([job])
        try:
            finished = False
            while not finished:
                await waiter.wait()
                finished = job.finished  # before taking: more may come in while the reader holds this output
                result = job.take()
                if result is not None:
                    yield result
        finally:
            waiter.abandon()

    def _mailbox(self) -> EventLoopMailbox:
        event_loop = asyncio.get_running_loop()
        with self._lock:
            mailbox = self._mailboxes.get(event_loop)
            if mailbox is None:
                mailbox = self._mailboxes[event_loop] = EventLoopMailbox(self._engine, event_loop)
            return mailbox
