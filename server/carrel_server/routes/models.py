"""``/v1/models``: every name that a request may use, with its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import Response

from carrel_server.json_response import JsonResponse
from carrel_server.routes.endpoint import get
from carrel_server.service import Service, service_of

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel


async def list_models(request: Request) -> Response:
    service = service_of(request)
    cards = [card(service, name, hosted) for hosted in service.host.models.values() for name in hosted.names]
    return JsonResponse({"object": "list", "data": cards})


async def show_model(request: Request, name: str) -> Response:
    service = service_of(request)
    return JsonResponse(card(service, name, service.any_model(name)))


def card(service: Service, name: str, hosted: HostedModel) -> dict[str, Any]:
    """OpenAI's model object, vLLM's ``max_model_len`` and ``root``, and what carrel's own clients want to know."""
    facts: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "carrel",
        "root": hosted.key,
        "parent": None,
        "max_model_len": hosted.max_model_len,
        "task": hosted.task,
    }
    if hosted.embedding_dim is not None and hosted.task == "embedding":
        facts["embedding_dim"] = hosted.embedding_dim
    if hosted.task == "rerank":
        facts |= {"reranker_kind": hosted.reranker_kind, "score_range": [0.0, 1.0]}
    return facts


ENDPOINTS = (
    get("/v1/models", list_models),
    get("/v1/models/{name:path}", show_model),
)
