"""uvicorn's httptools protocol, but an offer to upgrade costs no body, and no client keeps a connection for ever.

Java's HttpClient sends ``Upgrade: h2c`` with every request. A server may ignore the offer and answer in HTTP/1.1. The
parser, though, stops at such a head and takes the rest for another protocol, so the body would be lost. Here the head
is given to a fresh parser without the offer, followed by the bytes after it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from carrel_server.errors import error_object
from carrel_server.json_response import dumps
from carrel_server.request_record import request_id

HOP_HEADERS = frozenset({b"upgrade", b"http2-settings", b"connection"})
MAX_PIPELINED = 8  # requests that are read before the first is answered


@dataclass(frozen=True)
class WireLimits:
    """What one connection may cost before a route sees it, and after."""

    max_head_bytes: int = 64 * 1024  # request line and headers; as much again in chunk sizes and trailers
    head_timeout: float = 30.0  # seconds for a head to come
    stall_timeout: float = 60.0  # seconds in which a client must read something of what was written


class IgnoreUpgradeProtocol(HttpToolsProtocol):
    """HTTP/1.1 that ignores every upgrade. The app has no WebSocket routes."""

    limits: ClassVar[WireLimits] = WireLimits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._awaits_head = True
        self._wire_bytes = self._body_bytes = 0  # of this message
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []  # on their way; more than one when a client does not wait
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head_timer)
        _cancel(self._stall_timer)
        for cycle in self._cycles:  # uvicorn tells only the last of several that came in one go
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._awaits_head and self._head_timer is None:
            self._await_head()
        self._wire_bytes += len(data)
        self._feed(data)
        if not self.transport.is_closing():
            self._check_size()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._method == b"CONNECT":
                self.send_400_response("carrel is no proxy.")
                return
            after_head = data[offer.args[0] :]
            self._restart_parser()
            self._feed(self._head_without_offer() + after_head)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("This is no valid HTTP request.")

    # -- what the parser finds

    def on_headers_complete(self) -> None:
        self._method: bytes = self.parser.get_method()
        self._version: str = self.parser.get_http_version()
        self._awaits_head = False
        _cancel(self._head_timer)
        self._head_timer = None
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete] + [self.cycle]
            if len(self._cycles) <= MAX_PIPELINED:  # who reads no further would not see the client leave
                self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._awaits_head = True
            self._wire_bytes = self._body_bytes = 0
            _cancel(self._head_timer)
            self._head_timer = None
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer before the end of the body, as to a wrong key: the rest is read, but not for ever."""
        super().on_response_complete()
        if not self._awaits_head and self._head_timer is None:
            self._await_head()

    # -- limits

    def _check_size(self) -> None:
        """A head without end, or chunks of nothing."""
        limit = self.limits.max_head_bytes
        if self._awaits_head and self._wire_bytes > limit:
            self._refuse(431, f"The request line and headers are over {limit} bytes.")
        elif self._wire_bytes - self._body_bytes > 2 * limit + 16 * self._body_bytes:
            self.transport.abort()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # some clients send an empty line after a body: nothing to end an answer for
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        _cancel(self._stall_timer)
        super().resume_writing()

    def _watch_reader(self, num_bytes: int) -> None:
        _cancel(self._stall_timer)
        self._stall_timer = self.loop.call_later(self.limits.stall_timeout, self._look_at_reader, num_bytes)

    def _look_at_reader(self, before: int) -> None:
        """A client that has read nothing since is gone, whatever its connection says; what it asked for ends."""
        now = self.transport.get_write_buffer_size()
        if now >= before:
            self.transport.abort()
        else:
            self._watch_reader(now)

    # -- answers without a route

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # in the middle of another answer
            self.transport.abort()
            return
        body = dumps(error_object(status, message))
        lines = (
            b"content-type: application/json",
            b"connection: close",
            b"content-length: %d" % len(body),
            b"x-request-id: " + request_id(None).encode(),
        )
        self.transport.write(STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()

    # -- offers

    def _restart_parser(self) -> None:
        parser: Any = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser = parser

    def _head_without_offer(self) -> bytes:
        lines = [self._method + b" " + self.url + b" HTTP/" + self._version.encode()]
        for name, value in self.headers:
            if name not in HOP_HEADERS:
                lines.append(name + b": " + value)
            elif name == b"connection":
                kept = [t for t in value.split(b",") if t.strip().lower() not in HOP_HEADERS]
                lines += [b"connection: " + b",".join(kept)] if kept else []
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
