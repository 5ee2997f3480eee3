"""The one thread that owns the device: takes requests in, steps the core, hands outputs out.

Knows threads, mailboxes and how an engine ends. Does not know what a step computes.

The error ladder, from the smallest harm to the largest::

    result.error            that request ends with it           (the scheduler)
    a batch raised          its requests end                    (the core)
    a mailbox raised        its reader is gone: its requests are aborted
    the device is lost      every request ends with EngineDeadError, and so does every later submit()
    anything else raised    likewise

Every accepted request ends in exactly one terminal output. The book of that is ``_open``: submit() enters a request,
and whoever takes it out, under the lock, delivers its end: a step, an abort, close() or the death of the loop.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from carrel.core import EngineCore
from carrel.errors import (
    CapacityError,
    CarrelError,
    EngineClosedError,
    EngineDeadError,
    InvalidParamsError,
    QueueFullError,
)
from carrel.outputs import FinishReason
from carrel.request import Request
from carrel.stats import SchedulerStats
from carrel.step import EngineOutput, Mailbox


@dataclass(frozen=True, slots=True)
class LoopStats:
    """The loop's own numbers beside the scheduler's."""

    num_open: int  # accepted requests without a terminal output yet
    num_queued: int  # of those, not yet scheduled
    scheduler: SchedulerStats


class EngineLoop:
    """Runs an :class:`~carrel.core.EngineCore` in a daemon thread, from construction to :meth:`close`."""

    def __init__(self, core: EngineCore, *, max_queued_requests: int = 100_000, name: str = "carrel-engine") -> None:
        self._core = core
        self._max_queued_requests = max_queued_requests
        self._changed = threading.Condition(threading.Lock())  # guards the next five
        self._open: dict[str, Mailbox] = {}  # every accepted request that has not ended
        self._arrivals: list[Request] = []
        self._aborts: list[str] = []
        self._closing = False
        self._death: BaseException | None = None
        self._delivering = threading.Lock()  # outputs leave in the order in which they are taken out of the book
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # Called by any thread.

    def submit(self, requests: Sequence[Request], mailbox: Mailbox) -> None:
        """Accept all of ``requests``, or raise and accept none. Their outputs come to ``mailbox``.

        Raises:
            EngineClosedError, EngineDeadError: the engine has ended.
            QueueFullError: with these requests more than ``max_queued_requests`` would wait.
            ContextLengthError, CapacityError: a request, or their number, can never fit.
            InvalidParamsError: two requests have the same id.
        """
        for request in requests:
            self._core.check_fits(request)
        with self._changed:
            self._check_alive()
            self._check_room(len(requests))
            accepted: dict[str, Mailbox] = {}
            for request in requests:
                if request.request_id in self._open or request.request_id in accepted:
                    raise InvalidParamsError(f"request_id {request.request_id!r} is in use.", param="request_id")
                accepted[request.request_id] = mailbox
            self._open.update(accepted)
            self._arrivals.extend(requests)
            self._changed.notify()

    def abort(self, request_ids: Iterable[str]) -> None:
        """End these requests before the next step. Unknown and ended ids are passed over."""
        with self._changed:
            self._aborts.extend(request_ids)
            self._changed.notify()

    def close(self, timeout: float = 10.0) -> None:
        """Abort every open request and end the thread. Idempotent, and may be called from anywhere.

        If the device does not come back within ``timeout`` seconds, the requests are ended without it.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is self._thread:
            return  # called by a mailbox: the loop ends after this delivery
        self._thread.join(timeout)
        if self._thread.is_alive():
            in_order = self._delivering.acquire(timeout=1.0)  # a mailbox that blocks must not block this too
            try:
                self._end_open_requests("abort", lambda: None)
            finally:
                if in_order:
                    self._delivering.release()

    def fail(self, error: EngineDeadError) -> None:
        """The device is lost: end every open request with ``error``, and refuse the later ones. From any thread.

        Waits for no step: the thread may hang in one. It ends when it comes back.
        """
        with self._changed:
            if self._death is not None:
                return
            self._death = error
            self._changed.notify()
        self._deliver_ends("error", lambda: _engine_dead(error))

    @property
    def is_alive(self) -> bool:
        """Whether requests are accepted."""
        return self._death is None and not self._closing

    @property
    def death(self) -> BaseException | None:
        """What ended the loop, if it did not end by :meth:`close`."""
        return self._death

    def stats(self) -> LoopStats:
        return LoopStats(len(self._open), self._num_queued, self._core.stats())

    @property
    def _num_queued(self) -> int:
        return len(self._arrivals) + self._core.num_waiting

    def _check_alive(self) -> None:
        if self._death is not None:
            raise _engine_dead(self._death)
        if self._closing:
            raise EngineClosedError("The engine is closed. Make a new one to go on.")

    def _check_room(self, num_requests: int) -> None:
        if num_requests > self._max_queued_requests:
            raise CapacityError(
                f"{num_requests} requests at once are more than max_queued_requests={self._max_queued_requests} lets "
                "wait. Submit fewer at once."
            )
        if self._num_queued + num_requests > self._max_queued_requests:
            raise QueueFullError(
                f"{self._num_queued} requests wait already and max_queued_requests is {self._max_queued_requests}. "
                f"Try again later, or submit fewer than {num_requests} at once."
            )

    # Called by the loop's thread alone.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                outputs = self._take_inbox()
                if self._core.has_work:
                    outputs += self._core.step()
                self._deliver(outputs)
            self._deliver(self._take_inbox() + self._core.abort(list(self._open)))
            self._deliver_ends("abort", lambda: None)
            self._core.drain()  # the device is idle when the thread has ended: its memory can be given back
        except BaseException as error:  # the last rung: whatever it was, everybody gets an answer
            self._die(error)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do. False: the engine is closing, or dead."""
        with self._changed:
            while not (self._ends or self._arrivals or self._aborts or self._core.has_work):
                self._changed.wait()
            return not self._ends

    @property
    def _ends(self) -> bool:
        return self._closing or self._death is not None

    def _take_inbox(self) -> list[EngineOutput]:
        with self._changed:
            arrivals, self._arrivals = self._arrivals, []
            aborts, self._aborts = self._aborts, []
        for request in arrivals:
            self._core.add_request(request)
        return self._core.abort(aborts) if aborts else []

    def _deliver(self, outputs: list[EngineOutput]) -> None:
        """One call to each mailbox. Outputs of requests that are not in the book any more are dropped."""
        with self._delivering:
            gone = [mailbox for mailbox, news in self._sort(outputs) if not _post(mailbox, news)]
        for mailbox in gone:
            self._abandon(mailbox)

    def _sort(self, outputs: list[EngineOutput]) -> list[tuple[Mailbox, list[EngineOutput]]]:
        """Outputs by mailbox; the requests that end with them leave the book."""
        sorted_outputs: dict[int, tuple[Mailbox, list[EngineOutput]]] = {}
        with self._changed:
            for output in outputs:
                mailbox = self._open.get(output.request_id)
                if mailbox is None:
                    continue
                if output.finish_reason is not None:
                    del self._open[output.request_id]
                if (entry := sorted_outputs.get(id(mailbox))) is None:
                    entry = sorted_outputs[id(mailbox)] = (mailbox, [])
                entry[1].append(output)
        return list(sorted_outputs.values())

    def _abandon(self, mailbox: Mailbox) -> None:
        """The mailbox raised. Abort its requests and tell it once more; what comes of that is its own business."""
        with self._changed:
            request_ids = [request_id for request_id, owner in self._open.items() if owner is mailbox]
            self._aborts.extend(request_ids)
        with self._delivering:
            for owner, news in self._sort([EngineOutput(id_, finish_reason="abort") for id_ in request_ids]):
                _post(owner, news)

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self._death = self._death or error
        with contextlib.suppress(Exception):  # give back what can be given back; the book below is what counts
            self._core.fail_all(_engine_dead(error))
        self._deliver_ends("error", lambda: _engine_dead(error))

    def _deliver_ends(self, reason: FinishReason, make_error: Callable[[], CarrelError | None]) -> None:
        with self._delivering:
            self._end_open_requests(reason, make_error)

    def _end_open_requests(self, reason: FinishReason, make_error: Callable[[], CarrelError | None]) -> None:
        """Deliver the end of every request in the book, without asking the core. ``_delivering`` is held."""
        with self._changed:
            self._arrivals.clear()
            request_ids = list(self._open)
        ends = [EngineOutput(id_, finish_reason=reason, error=make_error()) for id_ in request_ids]
        for mailbox, news in self._sort(ends):
            _post(mailbox, news)


def _post(mailbox: Mailbox, outputs: list[EngineOutput]) -> bool:
    """False: the mailbox raised, its reader is gone."""
    try:
        mailbox.deliver(outputs)
    except Exception:
        return False
    return True


def _engine_dead(cause: BaseException) -> EngineDeadError:
    reason = str(cause) if isinstance(cause, EngineDeadError) else f"{cause!r}."
    error = EngineDeadError(f"The engine stopped because of an error: {reason} Make a new engine to go on.")
    error.__cause__ = cause
    return error
