"""Server-sent events as an OpenAI server sends them: bytes in, data out. Knows no HTTP client.

Lines end at LF and nowhere else: a splitter that follows Unicode (``str.splitlines``, httpx's ``iter_lines``) cuts an
event in two where the text itself holds U+2028 or U+0085.
"""

from __future__ import annotations

from collections.abc import Iterator

DONE = "[DONE]"


class EventDecoder:
    """Collects the bytes of a stream, in whatever pieces they come, into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""  # the line that has not ended yet

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The data of each line that this chunk completes; comments, blank lines and ``[DONE]`` are left out.

        >>> list(EventDecoder().feed(b'data: {"a": 1}\\n\\n: ping\\n\\ndata: [DONE]\\n\\n'))
        ['{"a": 1}']
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip().decode()
                if data != DONE:
                    yield data
