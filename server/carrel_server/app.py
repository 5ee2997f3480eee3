"""The FastAPI app over one ``AsyncLLM``. Knows the order of the layers; does not own the engine and never closes it.

::

    CORS (if asked for) → API key → routes → errors as OpenAI's object
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

from carrel_server.auth import ApiKeyMiddleware
from carrel_server.errors import HttpError, on_disconnect, on_error, on_http_exception
from carrel_server.routes import chat, completions, embeddings, health, models, rerank, tokenize
from carrel_server.service import Service
from carrel_server.settings import ServerSettings

if TYPE_CHECKING:
    from carrel.async_llm import AsyncLLM

MODULES = (health, models, chat, completions, embeddings, rerank, tokenize)
ENDPOINTS = tuple(endpoint for module in MODULES for endpoint in module.ENDPOINTS)


def create_app(llm: AsyncLLM, settings: ServerSettings | None = None) -> FastAPI:
    """The app that serves an engine. Mount it, test it, or run it with uvicorn.

    Example::

        async with AsyncLLM() as llm:                 # the starter models
            app = create_app(llm, ServerSettings(api_keys=("secret",)))
    """
    settings = settings or ServerSettings()
    app = FastAPI(
        title="carrel",
        version=__version__,
        middleware=_layers(settings),
        redirect_slashes=False,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.state.service = Service(llm, settings)
    for endpoint in ENDPOINTS:
        methods, extra = [endpoint.method], endpoint.openapi()
        app.add_api_route(endpoint.path, endpoint.handler, methods=methods, openapi_extra=extra, response_model=None)
    for error in (CarrelError, HttpError, Exception):
        app.add_exception_handler(error, on_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    return app


def _layers(settings: ServerSettings) -> list[Middleware]:
    layers = [Middleware(ApiKeyMiddleware, api_keys=settings.api_keys)]
    if settings.allowed_origins:
        origins = list(settings.allowed_origins)
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        layers.insert(0, cors)
    return layers
