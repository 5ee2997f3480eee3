"""Messages between the ranks' processes, over pipes: a kind, a length, then JSON or numbers. Never pickle.

::

    | kind, 1 byte | length, 8 bytes | payload |

Knows bytes; knows no meaning.
"""

from __future__ import annotations

import json
import struct
import threading
from typing import IO, Any

import numpy as np
import numpy.typing as npt

JSON, STEP = b"J", b"S"
_HEAD = struct.Struct("<cQ")

IntArray = npt.NDArray[np.int64]


class Frames:
    """One end of a pair of pipes. Any number of threads may write, one reads."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._writing = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Raises OSError if the other end is gone."""
        self._write(JSON, json.dumps(message).encode("utf-8"))

    def send_step(self, numbers: IntArray) -> None:
        self._write(STEP, numbers.astype("<i8", copy=False).tobytes())

    def read(self) -> dict[str, Any] | IntArray | None:
        """The next message; None when the other end is gone."""
        head = self._incoming.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        kind, length = _HEAD.unpack(head)
        payload = self._incoming.read(length)
        if len(payload) < length:
            return None
        if kind == STEP:
            return np.frombuffer(payload, dtype="<i8").astype(np.int64, copy=False)
        message: dict[str, Any] = json.loads(payload)
        return message

    def hang_up(self) -> None:
        """Send no more; the other end sees it."""
        self._outgoing.close()

    def close(self) -> None:
        for stream in (self._outgoing, self._incoming):
            stream.close()

    def _write(self, kind: bytes, payload: bytes) -> None:
        with self._writing:
            self._outgoing.write(_HEAD.pack(kind, len(payload)) + payload)
            self._outgoing.flush()
