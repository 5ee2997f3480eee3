"""The API key. Default-deny: every path needs it but the ones listed here, whatever routes exist."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from carrel_server.errors import HttpError, error_response

IDENTITY = "carrel_identity"  # in the scope's state: whose key it was, if there are several
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})


class ApiKeyMiddleware:
    """Answers 401 to whoever has no key. With no keys configured any Authorization header is fine."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self.app = app
        self._digests = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._digests or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        digest = self._digest_of_key(scope)
        if digest is not None:
            if len(self._digests) > 1:
                scope.setdefault("state", {})[IDENTITY] = digest.hex()
            await self.app(scope, receive, send)
            return
        message = "A valid API key is needed: send it as the header Authorization: Bearer KEY."
        response = error_response(HttpError(401, message))
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _digest_of_key(self, scope: Scope) -> bytes | None:
        """The digest of the key that was sent, if it is one of ours."""
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = header.strip().partition(b" ")
        given = _digest(key.strip())
        # Every key is compared, and digests have one length, so the time tells nothing about the keys.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given if scheme.lower() == b"bearer" and any(matches) else None


def cache_salt(request: Request, salt: str | None) -> str | None:
    """Holders of different keys share no prefix cache: its timing would tell one what the other asked.

    None, with one key or none, and no ``salt`` in the request: everything is shared.
    """
    identity = request.scope.get("state", {}).get(IDENTITY)
    return None if identity is None and salt is None else f"{identity}/{salt}"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
