"""The FastAPI app over one ``AsyncLLM``. Knows the order of the layers; does not own the engine and never closes it.

::

    access log, request ids → errors in other dialects → CORS → API key → gate (loading, ending, too many) → routes
                                                                       → errors as OpenAI's object
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrel._version import __version__
from carrel.errors import CarrelError
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from carrel_server.access_log import HEADER, AccessLogMiddleware
from carrel_server.auth import ApiKeyMiddleware
from carrel_server.error_dialects import ErrorDialects
from carrel_server.errors import HttpError, LastResortMiddleware, on_disconnect, on_error, on_http_exception
from carrel_server.http_metrics import HttpMetrics
from carrel_server.keys import KeyRing
from carrel_server.readiness import GateMiddleware, Readiness
from carrel_server.routes import (
    chat,
    completions,
    embeddings,
    health,
    models,
    ollama_chat,
    ollama_models,
    ollama_pooling,
    pooling,
    rerank,
    responses,
    score,
    tokenize,
)
from carrel_server.service import Service
from carrel_server.settings import ServerSettings
from carrel_server.token_ids import load_cl100k

if TYPE_CHECKING:
    from carrel.async_llm import AsyncLLM

MODULES = (
    health,
    models,
    chat,
    responses,
    completions,
    embeddings,
    pooling,
    rerank,
    score,
    tokenize,
    ollama_chat,
    ollama_pooling,
    ollama_models,
)
ENDPOINTS = tuple(endpoint for module in MODULES for endpoint in module.ENDPOINTS)


def create_app(llm: AsyncLLM | None = None, settings: ServerSettings | None = None) -> FastAPI:
    """The app that serves an engine. Mount it, test it, or run it with uvicorn.

    Without an engine every route but health answers 503, until :func:`open_app` brings one.

    Example::

        async with AsyncLLM() as llm:                 # the starter models
            app = create_app(llm, ServerSettings(api_keys=("secret",)))
    """
    settings = settings or ServerSettings()
    keys, readiness, metrics = KeyRing(settings.api_keys), Readiness(settings.max_concurrent_requests), HttpMetrics()
    gate = [
        Middleware(AccessLogMiddleware, settings=settings, metrics=metrics),
        Middleware(ErrorDialects),
        Middleware(LastResortMiddleware),
        *_cors(settings),
        Middleware(ApiKeyMiddleware, keys=keys),
        Middleware(GateMiddleware, readiness=readiness),
    ]
    app = FastAPI(
        title="carrel",
        version=__version__,
        middleware=gate,
        redirect_slashes=False,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.state.cl100k = load_cl100k() if settings.embedding_token_ids == "cl100k" else None
    app.state.settings, app.state.keys, app.state.readiness, app.state.http_metrics = settings, keys, readiness, metrics
    _add_routes(app)
    if llm is not None:
        open_app(app, llm)
    return app


def open_app(app: FastAPI, llm: AsyncLLM) -> None:
    """The engine is there: the app's routes serve it from now on."""
    state = app.state
    state.service = Service(llm, state.settings, state.http_metrics.registry, state.cl100k)
    app.state.readiness.open(llm.host)


def _add_routes(app: FastAPI) -> None:
    for endpoint in ENDPOINTS:
        app.add_api_route(
            endpoint.path,
            endpoint.handler,
            methods=[endpoint.method],
            openapi_extra=endpoint.openapi(),
            response_model=None,
            response_class=endpoint.answers,
        )
    for error in (CarrelError, HttpError):
        app.add_exception_handler(error, on_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientDisconnect, on_disconnect)


def _cors(settings: ServerSettings) -> list[Middleware]:
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=list(settings.allowed_methods),
            allow_headers=list(settings.allowed_headers),
            allow_credentials=settings.allow_credentials,
            expose_headers=[HEADER],
        )
    ]
