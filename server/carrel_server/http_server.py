"""uvicorn with a life of carrel's kind: it answers while the models load, says when they are there, lets requests
finish on a signal, ends at once on the second, and ends when the engine dies. Knows no flags."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from carrel.errors import CarrelError, EngineDeadError

from carrel_server.readiness import Readiness

if TYPE_CHECKING:
    from carrel.host import EngineHost

logger = logging.getLogger(__name__)

LAST_WORDS = 2.0  # seconds for requests that were cut off to say so
TICK = 0.05  # seconds between looks at what still runs


class CarrelServer(uvicorn.Server):
    """``load`` runs in a thread while the server answers already; ``on_ready`` gets what it made, in the event loop."""

    def __init__(
        self,
        config: uvicorn.Config,
        readiness: Readiness,
        *,
        load: Callable[[], EngineHost],
        on_ready: Callable[[EngineHost], None],
        on_hangup: Callable[[], None] | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        super().__init__(config)
        self.host: EngineHost | None = None
        self.error: BaseException | None = None  # what ended the server, if no signal did
        self._readiness = readiness
        self._load, self._on_ready, self._on_hangup = load, on_ready, on_hangup
        self._shutdown_timeout = shutdown_timeout
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="carrel-loading")
        self._loading: asyncio.Task[None] | None = None

    @property
    def is_loading(self) -> bool:
        """The thread cannot be interrupted: whoever wants to end now must leave it behind."""
        return self.host is None and self.error is None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        if self._on_hangup is not None and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._loading = loop.create_task(self._open())
        self._loading.add_done_callback(self._opened)

    async def _open(self) -> None:
        host = await asyncio.get_running_loop().run_in_executor(self._threads, self._load)
        self.host = host
        self._on_ready(host)

    def _opened(self, loading: asyncio.Task[None]) -> None:
        if not loading.cancelled() and (error := loading.exception()) is not None:
            self._fail(error)

    async def on_tick(self, counter: int) -> bool:
        death = self._readiness.death
        if death is not None and self.error is None:
            error = EngineDeadError(f"The engine has died, so the server ends: {death}")
            error.__cause__ = death
            self._fail(error)
        return await super().on_tick(counter)

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.should_exit = True
        self._readiness.draining = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests on their way may finish; others get a 503 meanwhile, and the health routes say so."""
        deadline = time.monotonic() + self._shutdown_timeout
        if self._loading is not None:
            self._loading.cancel()
        if self._readiness.num_running:
            logger.info("ending: %d requests may finish; a second signal ends at once", self._readiness.num_running)
        while self._readiness.num_running and not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(TICK)
        self.config.timeout_graceful_shutdown = max(0, int(deadline - time.monotonic()))
        await super().shutdown(sockets)
        if self.server_state.tasks and not self.force_exit:  # cancelled: they tell their clients
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS)
        for connection in list(self.server_state.connections):  # of clients that read nothing, or never close
            connection.transport.abort()
        await asyncio.sleep(0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._readiness.draining = True


def check_tls(config: uvicorn.Config) -> None:
    """Load the certificate, so that a wrong one is told before any model is loaded.

    Raises:
        CarrelError: a file is missing, is no certificate, or the key is not the certificate's.
    """
    try:
        config.load()
    except OSError as error:  # also ssl.SSLError
        raise CarrelError(f"The TLS files cannot be used: {error.strerror or error}. See --ssl-certfile.") from None
