"""A request's body: bytes, then JSON, then a checked schema.

Does not look at content types, as many clients lie there.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from carrel_server.errors import HttpError, validation_error
from carrel_server.limits import check_limits
from carrel_server.schemas.base import Body
from carrel_server.service import service_of

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
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise HttpError(400, "The body must be a JSON object.")
    check_limits(value, settings)
    try:
        body = schema.model_validate(value)
    except ValidationError as error:
        raise validation_error(error) from None
    service.warn_unknown(request.url.path, body.unknown_fields())
    return body


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
