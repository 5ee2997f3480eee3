"""The outermost layer: tells the prefix that a proxy adds, gives every request an id and, when it has ended, a line in
the log and a count in the metrics.

Never looks at bodies, query strings or keys. Lines go to the logger ``carrel_server.access`` at INFO.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carrel_server.errors import MAX_NAME, cut
from carrel_server.http_metrics import HttpMetrics
from carrel_server.json_response import dumps
from carrel_server.request_record import CURRENT, RequestRecord, request_id
from carrel_server.settings import ServerSettings

logger = logging.getLogger("carrel_server.access")

HEADER = "X-Request-Id"


class AccessLogMiddleware:
    """Answers carry ``X-Request-Id``, errors too: the client's own if it is plain, else a new one."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: HttpMetrics) -> None:
        self.app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._settings.root_path:  # the router takes the path with it or without
            scope["root_path"] = self._settings.root_path
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        record = RequestRecord(request_id(sent))
        if self._settings.request_timeout is not None:
            record.deadline = record.started + self._settings.request_timeout
        CURRENT.set(record)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)[HEADER] = record.id
            elif not message.get("more_body"):
                record.complete = True
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self._ended(scope, record)

    def _ended(self, scope: Scope, record: RequestRecord) -> None:
        seconds = time.monotonic() - record.started
        status = record.status if record.complete else 499  # a stream whose reader has left
        self._metrics.observe(handler_of(scope), scope["method"], status, seconds)
        if self._is_told(scope):
            facts = facts_of(scope, record, status, seconds)
            logger.info("%s", as_json(facts) if self._settings.access_log == "json" else as_text(facts))

    def _is_told(self, scope: Scope) -> bool:
        settings = self._settings
        if settings.access_log == "none" or not logger.isEnabledFor(logging.INFO):
            return False
        return not settings.silent_paths or get_route_path(scope) not in settings.silent_paths


def handler_of(scope: Scope) -> str:
    """The route's template, so that what strangers ask for makes no new time series."""
    return getattr(scope.get("route"), "path", None) or "none"


def facts_of(scope: Scope, record: RequestRecord, status: int, seconds: float) -> dict[str, Any]:
    """In the order of the line; what is not known is not there."""
    raw = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
    facts: dict[str, Any] = {
        "id": record.id,
        "method": scope["method"],
        "path": cut(raw.decode("ascii", "backslashreplace"), MAX_NAME),
        "status": status,
    }
    if record.model is not None:
        facts["model"] = record.model
    if record.prompt_tokens or record.completion_tokens:
        facts |= {"prompt_tokens": record.prompt_tokens, "completion_tokens": record.completion_tokens}
    if record.time_to_first_token is not None:
        facts["ttft"] = round(record.time_to_first_token, 4)
    client = scope.get("client")
    return {**facts, "seconds": round(seconds, 4), "client": client[0] if client else "unix"}


def as_text(facts: dict[str, Any]) -> str:
    """
    >>> as_text({"id": "req-1", "method": "GET", "path": "/health", "status": 200, "seconds": 0.0012})
    'req-1 "GET /health" 200 seconds=0.0012'
    """
    facts = dict(facts)
    head = f'{facts.pop("id")} "{facts.pop("method")} {facts.pop("path")}" {facts.pop("status")}'
    return " ".join([head, *(f"{name}={value}" for name, value in facts.items())])


def as_json(facts: dict[str, Any]) -> str:
    return dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}).decode()
