"""Whether requests are taken: not while models load, not while the server ends, not by an engine that is gone.

``/health/live`` says whether the process should live on, ``/health/ready`` whether to send it work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from carrel_server.auth import is_open
from carrel_server.errors import HttpError, error_response

if TYPE_CHECKING:
    from carrel.host import EngineHost

LOADING = "The models are still loading; try again in a moment."
ENDING = "The server is ending and takes no new requests."
GONE = "The engine takes no requests: it has died or is closing."


class Readiness:
    """The state of one server, from loading over ready to draining."""

    def __init__(self, max_concurrent_requests: int) -> None:
        self.draining = False  # a signal came; new work belongs to another server
        self.num_running = 0  # requests on their way, health aside
        self.max_running = max_concurrent_requests
        self._host: EngineHost | None = None

    def open(self, host: EngineHost) -> None:
        """The models are loaded."""
        self._host = host

    @property
    def refusal(self) -> str | None:
        """Why no request is let in; None when they are."""
        if self.draining:
            return ENDING
        return LOADING if self._host is None else None

    @property
    def problem(self) -> str | None:
        """Why this is no place to send work to; None when it is."""
        if self.refusal is None and self._host is not None and not self._host.loop.is_alive:
            return GONE
        return self.refusal

    @property
    def death(self) -> BaseException | None:
        """What killed the engine, if it did not just end."""
        return None if self._host is None else self._host.loop.death


def readiness_of(request: Request) -> Readiness:
    readiness = request.app.state.readiness
    assert isinstance(readiness, Readiness), "create_app sets it"
    return readiness


class GateMiddleware:
    """503 for every route but health until requests are taken; 429 for more at once than there may be."""

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        self.app = app
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope):
            await self.app(scope, receive, send)
            return
        error = self._error()
        if error is not None:
            response = error_response(error)
            if error.status == 503:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        self._readiness.num_running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._readiness.num_running -= 1

    def _error(self) -> HttpError | None:
        readiness = self._readiness
        if readiness.refusal is not None:
            return HttpError(503, readiness.refusal)
        if readiness.num_running >= readiness.max_running:
            return HttpError(429, f"{readiness.num_running} requests are on their way already; try again later.")
        return None
