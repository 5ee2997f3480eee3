"""One adapter's way to carrel: opened on first use, closed once. Knows nothing of what flows through it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from carrel.errors import EngineClosedError

from carrel_client.backend import Backend


class Connection:
    """Opens a backend when it is first needed, whichever thread or event loop needs it first."""

    def __init__(self, opener: Callable[[], Backend]) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._backend: Backend | None = None
        self._closed = False

    def open(self) -> Backend:
        """The backend; loads the model on the first call.

        Raises:
            EngineClosedError: the adapter was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosedError("This adapter was closed; make a new one.")
            if self._backend is None:
                self._backend = self._opener()
            return self._backend

    async def aopen(self) -> Backend:
        """As ``open``; weights are read in a thread, so that the event loop goes on."""
        if self._backend is not None and not self._closed:
            return self._backend
        return await asyncio.to_thread(self.open)

    def close(self) -> None:
        backend = self._end()
        if backend is not None:
            backend.close()

    async def aclose(self) -> None:
        backend = self._end()
        if backend is not None:
            await backend.aclose()

    def _end(self) -> Backend | None:
        with self._lock:
            backend, self._backend, self._closed = self._backend, None, True
            return backend
