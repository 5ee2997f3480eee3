"""uvicorn's httptools protocol, but an offer to upgrade never costs the body.

Java's HttpClient sends ``Upgrade: h2c`` with every request. A server may ignore the offer and answer in HTTP/1.1. The
parser, though, stops at such a head and takes the rest for another protocol, so the body would be lost. Here the head
is given to a fresh parser without the offer, followed by the bytes after it.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HOP_HEADERS = frozenset({b"upgrade", b"http2-settings", b"connection"})


class IgnoreUpgradeProtocol(HttpToolsProtocol):
    """HTTP/1.1 that ignores every upgrade. The app has no WebSocket routes."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._method == b"CONNECT":
                self.send_400_response("carrel is no proxy.")
                return
            after_head = data[offer.args[0] :]
            self._restart_parser()
            self.data_received(self._head_without_offer() + after_head)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        self._method: bytes = self.parser.get_method()
        self._version: str = self.parser.get_http_version()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

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
