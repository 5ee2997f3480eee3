"""Is it alive, is it ready, what is it, how is it doing."""

from __future__ import annotations

from carrel._version import __version__
from fastapi import Request
from starlette.responses import PlainTextResponse, Response

from carrel_server.errors import HttpError
from carrel_server.json_response import JsonResponse
from carrel_server.metrics import CONTENT_TYPE
from carrel_server.readiness import readiness_of
from carrel_server.routes.endpoint import Endpoint, get
from carrel_server.service import service_of


async def live(request: Request) -> Response:
    """The process answers, also while it loads or ends; 503 when its engine has died, so that it is started anew."""
    death = readiness_of(request).death
    if death is not None:
        raise HttpError(503, "The engine has died; the log says why. Start the server anew.")
    return Response()


async def ready(request: Request) -> Response:
    """Requests are taken; 503 while models load, while the server ends, and when the engine is gone."""
    problem = readiness_of(request).problem
    if problem is not None:
        raise HttpError(503, problem)
    return Response()


async def version() -> Response:
    return JsonResponse({"version": __version__})


async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.render(), media_type=CONTENT_TYPE)


ENDPOINTS = (
    get("/health/live", live, Response),
    get("/health", ready, Response),
    get("/health/ready", ready, Response),
    Endpoint("HEAD", "/health/live", live, answers=Response),  # wget --spider and many monitors
    Endpoint("HEAD", "/health", ready, answers=Response),
    Endpoint("HEAD", "/health/ready", ready, answers=Response),
    get("/version", version),
    get("/metrics", metrics, PlainTextResponse),
)
