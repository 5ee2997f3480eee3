"""Answers that are lists of arrays, written by hand: bytes joined, no object for a row. Knows JSON, no models."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from carrel.outputs import FloatArray

from carrel_server.errors import HttpError
from carrel_server.json_response import dumps

Encoding = Literal["float", "base64"]
FLOATS_IN_LOOP = 65_536  # more numbers than this are written in a thread, or the event loop would stand still


@dataclass(frozen=True)
class PoolingAnswer:
    """What stands around the rows.

    >>> vector = np.array([0.5, -1.0], dtype=np.float32)
    >>> PoolingAnswer("embd-1", "m", 3).rows([vector], [True], "float")
    b'{"object":"embedding","index":0,"embedding":[0.5,-1.0],"truncated":true}'
    """

    id: str
    model: str
    num_tokens: int
    kind: str = "embedding"  # the rows' ``object``
    field: str = "embedding"  # where a row has its array

    async def write(self, arrays: Sequence[FloatArray], truncated: Sequence[bool], encoding: Encoding) -> bytes:
        """The body. ``arrays`` [size] of fp32; a row says so when its input was cut."""
        if sum(array.size for array in arrays) <= FLOATS_IN_LOOP:
            return self._body(arrays, truncated, encoding)
        return await asyncio.to_thread(self._body, arrays, truncated, encoding)

    def _body(self, arrays: Sequence[FloatArray], truncated: Sequence[bool], encoding: Encoding) -> bytes:
        usage = {"prompt_tokens": self.num_tokens, "total_tokens": self.num_tokens}
        tail = {"model": self.model, "usage": usage, "id": self.id, "created": int(time.time())}
        rows = self.rows(arrays, truncated, encoding)
        return b"".join((b'{"object":"list","data":[', rows, b"],", dumps(tail)[1:]))

    def rows(self, arrays: Sequence[FloatArray], truncated: Sequence[bool], encoding: Encoding) -> bytes:
        """Row by row, so that a thread that writes a long answer lets the others in between."""
        write: Callable[[Any], bytes] = _base64 if encoding == "base64" else dumps
        head = f'{{"object":"{self.kind}","index":%d,"{self.field}":'.encode()
        parts: list[bytes] = []
        for index, array in enumerate(arrays):
            parts += (b"," if index else b"", head % index, write(np.ascontiguousarray(array, dtype="<f4")))
            parts.append(b',"truncated":true}' if truncated[index] else b"}")
        return b"".join(parts)


def _base64(array: FloatArray) -> bytes:
    """Little-endian, 4 bytes a number, as OpenAI's SDK reads them."""
    return b'"' + base64.b64encode(array.data) + b'"'


def require_finite(arrays: Sequence[FloatArray]) -> None:
    """A vector with NaN would poison an index; better no vector.

    Raises:
        HttpError: 500 that names the inputs.
    """
    bad = [index for index, array in enumerate(arrays) if not np.isfinite(array).all()]
    if bad:
        raise HttpError(500, f"The model gave numbers that are not finite for input {bad[:20]}.", param="input")
