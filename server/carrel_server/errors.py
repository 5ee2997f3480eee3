"""From exceptions to OpenAI's error object. Knows status codes and wording; does not know routes.

::

    InvalidParamsError, ChatTemplateError, …   400  BadRequestError
    ContextLengthError                         400  code "context_length_exceeded"
    wrong or no key                            401  AuthenticationError
    ModelNotFoundError, unknown route          404  NotFoundError
    body over the limit                        413  RequestEntityTooLargeError
    QueueFullError, engine closing or dead     503  ServiceUnavailableError, with Retry-After
    StepError, a bug                           500  InternalServerError
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from carrel.errors import (
    CapacityError,
    ContextLengthError,
    EngineClosedError,
    EngineDeadError,
    ModelError,
    RequestError,
)
from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from carrel_server.json_response import JsonResponse

logger = logging.getLogger(__name__)

ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestEntityTooLargeError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


class HttpError(Exception):
    """An error that only HTTP has: a wrong key, a body over the limit, a broken JSON text."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


def error_object(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's ``{"error": {…}}``; ``code`` is the number of the status unless a name is given."""
    kind = ERROR_TYPES.get(status, "APIError")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or status}}


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
    if isinstance(error, (CapacityError, EngineClosedError, EngineDeadError)):
        return 503, error_object(503, str(error))
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
    headers = {"Retry-After": "1"} if status == 503 else None
    return JsonResponse(body, status_code=status, headers=headers)


async def on_error(request: Request, error: Exception) -> Response:
    """The HTTP edge: everything a route raises becomes OpenAI's error object."""
    status = describe(error)[0]
    if status >= 500:
        logger.error("%s failed: %s", request.url.path, error, exc_info=error if status == 500 else None)
    return error_response(error)


async def on_disconnect(_: Request, __: Exception) -> Response:
    """Nobody reads this; 499 is what access logs call it."""
    return Response(status_code=499)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own 404 and 405."""
    assert isinstance(error, HTTPException), "registered for HTTPException"
    body = error_object(error.status_code, http_message(request, error))
    return JsonResponse(body, status_code=error.status_code, headers=error.headers)


def http_message(request: Request, error: HTTPException) -> str:
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} {path} is not possible here; use {allowed}."
    if error.status_code == 404:
        routes = sorted({getattr(route, "path", "") for route in request.app.routes} - {""})
        return f"There is no route {request.method} {path}. Routes: {', '.join(routes)}."
    return error.detail or HTTPStatus(error.status_code).phrase
