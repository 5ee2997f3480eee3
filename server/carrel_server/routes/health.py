"""Is it alive, is it ready, what is it, how is it doing."""

from __future__ import annotations

from carrel._version import __version__
from fastapi import Request
from starlette.responses import Response

from carrel_server.errors import HttpError
from carrel_server.json_response import JsonResponse
from carrel_server.metrics import CONTENT_TYPE
from carrel_server.routes.endpoint import get
from carrel_server.service import service_of


async def live() -> Response:
    """The process answers."""
    return Response()


async def ready(request: Request) -> Response:
    """The engine takes requests; 503 when it has died or is closing."""
    service = service_of(request)
    if service.draining or not service.host.loop.is_alive:
        raise HttpError(503, "The engine takes no requests: it has died or is closing.")
    return Response()


async def version() -> Response:
    return JsonResponse({"version": __version__})


async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.render(), media_type=CONTENT_TYPE)


ENDPOINTS = (
    get("/health/live", live),
    get("/health", ready),
    get("/health/ready", ready),
    get("/version", version),
    get("/metrics", metrics),
)
