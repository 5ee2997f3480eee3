"""What is known of one HTTP request while it runs: its id, its deadline, and the numbers for its line in the log.

The record travels in a context variable, so that what a route calls may write into it without being handed it.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

SANE_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")  # what may stand in a header and in a log
CURRENT: ContextVar[RequestRecord] = ContextVar("carrel_request")


@dataclass(slots=True)
class RequestRecord:
    """Times are of ``time.monotonic``, in seconds."""

    id: str
    deadline: float | None = None
    started: float = field(default_factory=time.monotonic)
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    time_to_first_token: float | None = None  # seconds; None: nothing was generated
    status: int = 499  # the client left before there was an answer, unless one is sent
    complete: bool = False  # the last byte was sent

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline; None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def current_record() -> RequestRecord | None:
    """The record of the request that this code runs for; None outside of one."""
    return CURRENT.get(None)


def request_id(sent: bytes | None) -> str:
    """The client's own id if it is short and plain, else a new one.

    >>> request_id(b"trace-7")
    'trace-7'
    >>> request_id(b"two\\nlines").startswith("req-")
    True
    """
    if sent is not None and SANE_ID.fullmatch(sent):
        return sent.decode("ascii")
    return f"req-{secrets.token_hex(12)}"
