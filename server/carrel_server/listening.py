"""The socket that a server listens on: TCP or a file. Had before any model is loaded, so that what is wrong with it is
told at once. Knows no HTTP."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from carrel.errors import CarrelError

UNIX_MODE = 0o660  # the owner and his group, as for a proxy's


@contextlib.contextmanager
def listening(host: str, port: int, uds: str | None) -> Iterator[socket.socket]:
    """A bound socket until the block ends; the file of a unix socket goes with it.

    Raises:
        CarrelError: the address cannot be had.
    """
    if uds is None:
        with bind(host, port) as listener:
            yield listener
        return
    path = Path(uds)
    with bind_unix(path) as listener:
        inode = path.stat().st_ino
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:  # not another server's, which has replaced it
                    path.unlink()


def bind(host: str, port: int) -> socket.socket:
    """Port 0 picks a free one."""
    listener: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise CarrelError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from None
    return listener


def bind_unix(path: Path) -> socket.socket:
    """A socket that a dead server has left is replaced; one that somebody listens on, or another file, is not."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            _remove_stale(path)
        before = os.umask(0o777)  # nobody may connect before the mode is what it shall be
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        path.chmod(UNIX_MODE)
    except OSError as error:
        listener.close()
        raise CarrelError(f"Cannot listen on {path}: {error.strerror or error}. Choose another --uds.") from None
    except CarrelError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise CarrelError(f"Cannot listen on {path}: there is a file that is no socket. Choose another --uds.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise CarrelError(f"Cannot listen on {path}: another server does. End it, or choose another --uds.")


def address_of(listener: socket.socket, host: str, *, tls: bool) -> str:
    """Where clients find the server: its URL, or ``unix:`` and the file."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    named = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{named}:{listener.getsockname()[1]}"
