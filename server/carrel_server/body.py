"""A request's body: bytes, then JSON, then a checked schema. A long one is read in a thread, off the event loop.

Does not look at content types, as many clients lie there.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from carrel_server.errors import HttpError, validation_error
from carrel_server.json_body import TooManyValues, loads
from carrel_server.limits import check_limits, check_numbers
from carrel_server.schemas.base import Body
from carrel_server.service import service_of
from carrel_server.settings import ServerSettings

BYTES_IN_LOOP = 65_536  # what is longer is read in a thread
BodyT = TypeVar("BodyT", bound=Body)


async def read_body(request: Request, schema: type[BodyT]) -> BodyT:
    """Read and check a JSON body.

    Raises:
        HttpError: 413 over ``max_body_bytes``; 408 not there in time; 400 not JSON, not an object, more of something
            than one request may have, or not what the schema says.
        InvalidParamsError: a field that carrel does not have yet is used.
    """
    service = service_of(request)
    settings = service.settings
    try:
        async with asyncio.timeout(settings.body_timeout):
            data = await _read_bytes(request, settings.max_body_bytes)
    except TimeoutError:
        raise HttpError(408, f"The body did not come within {settings.body_timeout:g} seconds.") from None
    if len(data) <= BYTES_IN_LOOP:
        body, unknown = _checked(data, schema, settings)
    else:
        body, unknown = await asyncio.to_thread(_checked, data, schema, settings)
    service.warn_unknown(request.url.path, unknown)
    return body


def _checked(data: bytes, schema: type[BodyT], settings: ServerSettings) -> tuple[BodyT, list[str]]:
    """The body, and the names of its fields that mean nothing."""
    try:
        value = loads(data)
    except TooManyValues as error:
        raise HttpError(400, str(error)) from None
    except orjson.JSONDecodeError as error:
        raise HttpError(400, f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise HttpError(400, "The body must be a JSON object.")
    check_limits(value, settings)
    try:
        body = schema.model_validate(value)
    except ValidationError as error:
        raise validation_error(error) from None
    check_numbers(vars(body), settings)
    return body, body.unknown_fields()


async def _read_bytes(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> HttpError:
    return HttpError(
        413, f"The body is over {limit} bytes; send less at once, or start with a larger --max-body-bytes."
    )
