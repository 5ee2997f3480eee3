"""Runs jobs for a thread that waits. One mailbox a call: nobody sees others' news. Knows no event loop."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from carrel.jobs import Job
from carrel.loop import EngineLoop
from carrel.step import EngineOutput

T = TypeVar("T")
MAX_IN_FLIGHT = 1024  # requests of one call: enough to fill any batch, and a million inputs need no memory at once


class QueueMailbox:
    """Lets one thread wait for the engine."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[EngineOutput]] = queue.SimpleQueue()

    def deliver(self, outputs: list[EngineOutput]) -> None:
        self._queue.put(outputs)

    def wait(self) -> list[EngineOutput]:
        return self._queue.get()


class InFlight(Generic[T]):
    """Jobs of one caller that are submitted and not finished."""

    def __init__(self, loop: EngineLoop) -> None:
        self._loop = loop
        self._mailbox = QueueMailbox()
        self._jobs: dict[str, Job[T]] = {}  # by id of each request that has not ended

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job[T]]) -> None:
        self._loop.submit([request for job in jobs for request in job.requests], self._mailbox)
        self._jobs |= {request.request_id: job for job in jobs for request in job.requests}

    def wait(self) -> list[Job[T]]:
        """Wait for the next step; the jobs that took its news in. News of what was aborted is dropped."""
        news: dict[Job[T], list[EngineOutput]] = {}
        for output in self._mailbox.wait():
            job = self._jobs.get(output.request_id)
            if job is not None:
                news.setdefault(job, []).append(output)
                if output.finished:
                    del self._jobs[output.request_id]
        for job, outputs in news.items():
            self._abort(job.feed(outputs))
        return list(news)

    def abandon_all(self) -> None:
        for job in dict.fromkeys(self._jobs.values()):
            job.abandon()
        self._abort(list(self._jobs))

    def _abort(self, request_ids: Iterable[str]) -> None:
        if unfinished := [id_ for id_ in request_ids if self._jobs.pop(id_, None) is not None]:
            self._loop.abort(unfinished)


def run_jobs(loop: EngineLoop, jobs: Iterable[Job[T]], on_finished: Callable[[], object]) -> list[T]:
    """Run all jobs at once, as far as they fit; results in the order of ``jobs``.

    ``jobs`` may be made while earlier ones run. The first job that fails ends the others, and its error is raised.
    """
    source = iter(jobs)
    places: dict[Job[T], int] = {}
    results: dict[int, T] = {}
    in_flight: InFlight[T] = InFlight(loop)
    try:
        while True:
            fresh = list(islice(source, max(0, MAX_IN_FLIGHT - len(in_flight))))
            if fresh:
                places |= {job: len(places) + i for i, job in enumerate(fresh)}
                in_flight.submit(fresh)
            if not len(in_flight):
                break
            for job in in_flight.wait():
                if job.finished and (result := job.take()) is not None:
                    results[places[job]] = result
                    on_finished()
    finally:
        in_flight.abandon_all()
    return [results[place] for place in range(len(places))]


def stream_job(loop: EngineLoop, job: Job[T]) -> Iterator[T]:
    """Submit now; then what the job has to show, step by step. Closing the iterator aborts the job."""
    in_flight: InFlight[T] = InFlight(loop)
    in_flight.submit([job])
    shown = _shown(in_flight, job)
    next(shown)  # into its try block: closing an iterator that was never asked must abort the job, too
    return cast("Iterator[T]", shown)


def _shown(in_flight: InFlight[T], job: Job[T]) -> Iterator[T | None]:
    """None first, when nothing has come yet."""
    try:
        yield None
        while not job.finished:
            in_flight.wait()
            result: Any = job.take()
            if result is not None:
                yield result
    finally:
        in_flight.abandon_all()
