"""The API keys. Default-deny: every path needs one but those listed here, whatever routes exist."""

from __future__ import annotations

from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from carrel_server.errors import HttpError, error_response
from carrel_server.keys import KeyRing

IDENTITY = "carrel_identity"  # in the scope's state: whose key it was, if there are several
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
KEY_HEADERS = frozenset({b"x-api-key", b"api-key"})  # Anthropic's and Azure's clients; all others send Bearer


class ApiKeyMiddleware:
    """Answers 401 to whoever has no key. With no keys configured any Authorization header is fine."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or is_open(scope):
            await self.app(scope, receive, send)
            return
        found = [digest for key in sent_keys(scope) if (digest := self._keys.find(key)) is not None]
        if found:
            if len(self._keys) > 1:
                scope.setdefault("state", {})[IDENTITY] = found[0].hex()
            await self.app(scope, receive, send)
            return
        message = "A valid API key is needed: send it as the header Authorization: Bearer KEY."
        response = error_response(HttpError(401, message))
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)


def is_open(scope: Scope) -> bool:
    """Whether the path is one of health's; the path as the router sees it, without the prefix of ``root_path``."""
    return get_route_path(scope) in OPEN_PATHS


def sent_keys(scope: Scope) -> list[bytes]:
    """What the request shows as a key: one for each header that can hold one."""
    keys: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            keys += [key.strip()] if scheme.lower() == b"bearer" else []
        elif name in KEY_HEADERS:
            keys.append(value.strip())
    return keys[:4]


def cache_salt(request: Request, salt: str | None) -> str | None:
    """Holders of different keys share no prefix cache: its timing would tell one what the other asked.

    None, with one key or none, and no ``salt`` in the request: everything is shared.
    """
    identity = request.scope.get("state", {}).get(IDENTITY)
    return None if identity is None and salt is None else f"{identity}/{salt}"
