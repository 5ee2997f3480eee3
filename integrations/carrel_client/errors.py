"""Errors that only a client meets; the rest is :mod:`carrel.errors`.

::

    CarrelError
    └── ServerError                                  ``status`` and ``code`` as the server gave them
        ├── ServerRefusedError (ValueError)          4xx: the request is wrong, or not allowed
        └── ServerUnreachableError (ConnectionError) no connection, no answer in time, or one that broke off
"""

from __future__ import annotations

from carrel.errors import CarrelError


class ServerError(CarrelError):
    """The server did not answer the request; the message is the server's own."""

    def __init__(self, message: str, *, status: int | None = None, code: str | int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServerRefusedError(ServerError, ValueError):
    """The server found the request wrong or not allowed (status 4xx)."""


class ServerUnreachableError(ServerError, ConnectionError):
    """There was no connection, no answer in time, or the answer broke off."""
