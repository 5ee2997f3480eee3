"""One route as data: path, method, handler, schema of its body. Knows OpenAPI's way to describe bodies and answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from carrel_server.schemas.base import Body

Handler = Callable[..., Awaitable[Response]]


TEXT = {"type": "string"}
OPENAI_ERROR = {
    "type": "object",
    "properties": {
        "message": TEXT,
        "type": TEXT,
        "param": {"type": ["string", "null"]},
        "code": {"type": ["integer", "string", "null"]},
    },
    "required": ["message", "type", "param", "code"],
}


@dataclass(frozen=True)
class Endpoint:
    """Handlers read their bodies themselves, so the description for /docs is made from the schema here."""

    method: str
    path: str
    handler: Handler
    body: type[Body] | None = None
    answers: type[Response] = JSONResponse  # what kind of body a 200 has

    def openapi(self) -> dict[str, Any]:
        """What OpenAPI says of this operation, beside what FastAPI sees by itself."""
        described: dict[str, Any] = {"responses": self._responses()}
        if self.body is not None:
            place = f"#/paths/{self.path.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs"
            schema = self.body.model_json_schema(ref_template=place + "/{model}")
            described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        return described

    def _responses(self) -> dict[str, Any]:
        """Every failure has one shape, OpenAI's, or Ollama's on its routes; a body with ``stream`` has two answers."""
        ollama = self.path.startswith("/api/")
        error = {"type": "object", "properties": {"error": TEXT if ollama else OPENAI_ERROR}, "required": ["error"]}
        content = {"application/json": {"schema": error}}
        failures = {"4XX": "What was wrong with the request.", "503": "Not ready, or at its end."}
        responses: dict[str, Any] = {
            status: {"description": text, "content": content} for status, text in failures.items()
        }
        if self.body is not None and "stream" in self.body.model_fields:
            media_type = "application/x-ndjson" if ollama else "text/event-stream"
            responses["200"] = {"content": {media_type: {"schema": TEXT}}}
        return responses


def get(path: str, handler: Handler, answers: type[Response] = JSONResponse) -> Endpoint:
    return Endpoint("GET", path, handler, answers=answers)


def post(path: str, handler: Callable[[Request], Awaitable[Response]], body: type[Body]) -> Endpoint:
    return Endpoint("POST", path, handler, body)
