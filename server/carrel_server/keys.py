"""API keys: where they are read from, and how one is compared. Keeps digests only; knows no HTTP."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

from carrel.errors import CarrelError


class KeyRing:
    """The keys that are valid now, as digests; they may be replaced while the server runs."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests: list[bytes] = []
        self.replace(keys)

    def replace(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in dict.fromkeys(keys)]

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, key: bytes) -> bytes | None:
        """The key's digest if it is one of ours. Every key is compared, and digests have one length: the time it
        takes tells nothing about them."""
        given = _digest(key)
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given if any(matches) else None


def all_keys(keys: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Those given by name, and those of the file."""
    return (*keys, *(read_key_file(file) if file is not None else ()))


def read_key_file(path: Path) -> tuple[str, ...]:
    """One key a line; empty lines and those that begin with # mean nothing.

    Raises:
        CarrelError: the file cannot be read, or holds no key. No message holds what is in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CarrelError(f"The API keys of {path} cannot be read: {reason}.") from None
    keys = tuple(line for text in lines if (line := text.strip()) and not line.startswith("#"))
    if not keys:
        raise CarrelError(f"{path} holds no API key. Write one a line; the server would be open to everyone.")
    return keys


def is_open_to_others(path: Path) -> bool:
    """Whether every user of the machine may read the file."""
    return bool(path.stat().st_mode & 0o004)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
