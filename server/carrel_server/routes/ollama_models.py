"""What Ollama's clients ask first: ``/api/tags``, ``/api/ps``, ``/api/show``, ``/api/version``, and ``/``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from carrel._version import __version__
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from carrel_server.body import read_body
from carrel_server.json_response import JsonResponse
from carrel_server.ollama_models import (
    FOREVER,
    capabilities,
    details,
    entry,
    find_model,
    listed_names,
    model_info,
    modified_at,
)
from carrel_server.routes.endpoint import Endpoint, get, post
from carrel_server.schemas.ollama import SPELLINGS, OllamaShowBody
from carrel_server.service import Service, service_of

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel

API_VERSION = "0.12.6"  # of the Ollama whose API this is: clients refuse servers that seem too old


async def tags(request: Request) -> Response:
    return JsonResponse({"models": await asyncio.to_thread(_tags, service_of(request))})


def _tags(service: Service) -> list[dict[str, Any]]:
    return [entry(name, hosted) for hosted in service.host.models.values() for name in listed_names(hosted)]


async def ps(request: Request) -> Response:
    """Every model: they are loaded when the server starts, and stay."""
    return JsonResponse({"models": await asyncio.to_thread(_running, service_of(request))})


def _running(service: Service) -> list[dict[str, Any]]:
    rows = []
    for hosted in service.host.models.values():
        cache = service.host.memory_plan.caches.get(hosted.runner_key)
        row = entry(next(listed_names(hosted)), hosted)
        del row["modified_at"]
        row["size"] += cache.num_bytes if cache else 0
        on_gpu = service.host.device.startswith("cuda")
        row |= {"size_vram": row["size"] if on_gpu else 0, "expires_at": FOREVER}
        rows.append({**row, "context_length": hosted.max_model_len})
    return rows


async def show(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, OllamaShowBody)
    found = find_model(service, body, None)
    return JsonResponse(await asyncio.to_thread(_card, service, found.hosted))


def _card(service: Service, hosted: HostedModel) -> dict[str, Any]:
    return {
        "modelfile": f"# served by carrel {__version__}\nFROM {hosted.names[0]}\n",
        "parameters": _parameters(service.sampling_defaults(hosted)),
        "template": hosted.chat_template.text if hosted.chat_template else "{{ .Prompt }}",
        "details": details(hosted),
        "model_info": model_info(hosted),
        "capabilities": capabilities(hosted),
        "modified_at": modified_at(hosted.folder),
    }


def _parameters(defaults: dict[str, Any]) -> str:
    """The sampling defaults as a Modelfile has them."""
    names = {name: own for own, name in SPELLINGS.items()}
    return "\n".join(f"{names.get(name, name):<30} {value}" for name, value in defaults.items())


async def version() -> Response:
    """The version of Ollama's API that is spoken; carrel's own stands beside it."""
    return JsonResponse({"version": API_VERSION, "carrel": __version__})


async def root() -> Response:
    """Ollama's clients look whether anybody is there."""
    return PlainTextResponse("carrel is running")


async def no_route() -> Response:
    """``POST /`` is somebody whose URL lacks its path; a list of paths helps more than a word on methods."""
    raise HTTPException(404)


ENDPOINTS = (
    get("/api/tags", tags),
    Endpoint("HEAD", "/api/tags", tags),
    get("/api/ps", ps),
    post("/api/show", show, OllamaShowBody),
    get("/api/version", version),
    Endpoint("HEAD", "/api/version", version),
    get("/", root, PlainTextResponse),
    Endpoint("HEAD", "/", root, answers=PlainTextResponse),
    Endpoint("POST", "/", no_route),
)
