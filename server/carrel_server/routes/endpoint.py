"""One route as data: path, method, handler, schema of its body. Knows OpenAPI's way to describe a body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from carrel_server.schemas.base import Body

Handler = Callable[..., Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """Handlers read their bodies themselves, so the description for /docs is made from the schema here."""

    method: str
    path: str
    handler: Handler
    body: type[Body] | None = None

    def openapi(self) -> dict[str, Any] | None:
        if self.body is None:
            return None
        place = f"#/paths/{self.path.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs"
        schema = self.body.model_json_schema(ref_template=place + "/{model}")
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def get(path: str, handler: Handler) -> Endpoint:
    return Endpoint("GET", path, handler)


def post(path: str, handler: Callable[[Request], Awaitable[Response]], body: type[Body]) -> Endpoint:
    return Endpoint("POST", path, handler, body)
