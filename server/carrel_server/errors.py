"""From exceptions to OpenAI's error object. Knows status codes and wording; does not know routes.

::

    InvalidParamsError, ChatTemplateError, …   400  BadRequestError
    ContextLengthError                         400  code "context_length_exceeded"
    CapacityError: it can never fit            400  BadRequestError
    wrong or no key                            401  AuthenticationError
    ModelNotFoundError, unknown route          404  NotFoundError
    a body that does not come                  408  RequestTimeoutError
    body over the limit                        413  RequestEntityTooLargeError
    QueueFullError, too many requests at once  429  RateLimitError, with Retry-After
    StepError, a bug                           500  InternalServerError
    loading, ending, engine closed or dead     503  ServiceUnavailableError, with Retry-After
    longer than request_timeout                504  GatewayTimeoutError

A message never holds more than a line's worth of what the client sent.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from carrel.errors import (
    CapacityError,
    ContextLengthError,
    EngineClosedError,
    EngineDeadError,
    ModelError,
    OutOfMemoryError,
    QueueFullError,
    RequestError,
)
from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carrel_server.json_response import JsonResponse

logger = logging.getLogger(__name__)

ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestEntityTooLargeError",
    431: "RequestHeaderFieldsTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}
RETRY_AFTER = {429: "1", 503: "1"}  # seconds
MAX_MESSAGE = 2000  # characters; the name of a model, or of a field, may be as long as a body
MAX_NAME = 200


class HttpError(Exception):
    """An error that only HTTP has: a wrong key, a body over the limit, a broken JSON text, a request out of time."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


def error_object(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's ``{"error": {…}}``; ``code`` is the number of the status unless a name is given."""
    kind = ERROR_TYPES.get(status, "APIError")
    named = None if param is None else cut(param, MAX_NAME)
    return {"error": {"message": cut(message, MAX_MESSAGE), "type": kind, "param": named, "code": code or status}}


def cut(text: str, limit: int) -> str:
    """
    >>> cut("a long text", 6)
    'a long…'
    """
    return text if len(text) <= limit else text[:limit] + "…"


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for an exception. What carrel did not raise on purpose shows no inside."""
    if isinstance(error, HttpError):
        return error.status, error_object(error.status, str(error), param=error.param)
    if isinstance(error, ContextLengthError):
        message = context_length_message(error)
        return 400, error_object(400, message, param=error.param, code="context_length_exceeded")
    if isinstance(error, RequestError):
        return 400, error_object(400, str(error), param=error.param)
    if isinstance(error, ModelError):
        return 404, error_object(404, str(error), param="model")
    if isinstance(error, QueueFullError):
        return 429, error_object(429, str(error))
    if isinstance(error, EngineDeadError):
        return 503, error_object(503, "The engine has died; the server's log says why.")
    if isinstance(error, (OutOfMemoryError, EngineClosedError)):
        return 503, error_object(503, str(error))
    if isinstance(error, CapacityError):  # too large for the KV cache or the queue: trying again changes nothing
        return 400, error_object(400, str(error))
    return 500, error_object(500, "The server failed on this request; its log says why.")


def context_length_message(error: ContextLengthError) -> str:
    """Clients look for the words "maximum context length"; what the engine said follows when it says more."""
    message = str(error)
    if "maximum context length" in message:
        return message
    return f"This model's maximum context length is {error.max_model_len} tokens. However, {message}"


def validation_error(error: ValidationError) -> HttpError:
    """The first field that pydantic complains of, in one sentence; schema errors are 400 here, as OpenAI's are."""
    complaints = error.errors(include_url=False, include_context=False, include_input=False)
    name = field_name(complaints[0]["loc"])
    # A union complains once for each of its branches.
    reasons = dict.fromkeys(c["msg"].removeprefix("Value error, ") for c in complaints if field_name(c["loc"]) == name)
    message = ", or ".join(reasons)
    return HttpError(400, f"{name}: {message}" if name else message, param=name or None)


def field_name(location: tuple[int | str, ...]) -> str:
    """The field, and the place in its list; what follows are names of types.

    >>> field_name(("documents", 1, "str"))
    'documents[1]'
    """
    place = f"[{location[1]}]" if len(location) > 1 and isinstance(location[1], int) else ""
    return f"{location[0]}{place}" if location else ""


def error_response(error: Exception) -> Response:
    status, body = describe(error)
    headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else None
    return JsonResponse(body, status_code=status, headers=headers)


async def on_error(request: Request, error: Exception) -> Response:
    """The HTTP edge: everything a route raises becomes OpenAI's error object."""
    status = describe(error)[0]
    if status == 500 or (status > 500 and not isinstance(error, HttpError)):  # a probe while loading is no news
        trace = error if status == 500 or isinstance(error, EngineDeadError) else None  # the answer tells nothing
        logger.error("%r failed: %s", cut(request.url.path, MAX_NAME), error, exc_info=trace)
    return error_response(error)


class LastResortMiddleware:
    """What no handler took: a bug, or the end of the server in the middle of a request. Inside of the access log, so
    that these answers have an id and a line too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:  # only a server that ends cancels its requests
            error: Exception = HttpError(503, "The server is shutting down.")
        except Exception as raised:
            if started:
                raise
            logger.error("%r failed.", cut(scope["path"], MAX_NAME), exc_info=raised)
            error = raised
        else:
            return
        if not started:
            await error_response(error)(scope, receive, send)


async def on_disconnect(_: Request, __: Exception) -> Response:
    """Nobody reads this; 499 is what access logs call it."""
    return Response(status_code=499)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own 404 and 405."""
    assert isinstance(error, HTTPException), "registered for HTTPException"
    body = error_object(error.status_code, http_message(request, error))
    return JsonResponse(body, status_code=error.status_code, headers=error.headers)


def http_message(request: Request, error: HTTPException) -> str:
    path = cut(request.url.path, MAX_NAME)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} {path} is not possible here; use {allowed}."
    if error.status_code == 404:
        routes = sorted({getattr(route, "path", "") for route in request.app.routes} - {""})
        return f"There is no route {request.method} {path}. Routes: {', '.join(routes)}."
    return error.detail or HTTPStatus(error.status_code).phrase
