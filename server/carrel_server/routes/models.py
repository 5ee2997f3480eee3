"""``/v1/models``: every name that a request may use, with its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import Response

from carrel_server.json_response import JsonResponse
from carrel_server.routes.endpoint import get
from carrel_server.service import Service, service_of

if TYPE_CHECKING:
    from carrel.config import Ability
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
    facts["capabilities"] = capabilities(hosted)
    if hosted.embedding_dim is not None and hosted.task == "embedding":
        pooling = hosted.config.pooling
        facts |= {
            "embedding_dim": hosted.embedding_dim,
            "matryoshka": hosted.matryoshka,  # whether dimensions may be fewer
            "prompts": list(pooling.prompts) if pooling else [],  # what prompt_name may say
        }
    if hosted.can("rerank"):
        facts |= {"reranker_kind": hosted.reranker_kind, "score_range": [0.0, 1.0]}
    if hosted.can("classify"):
        facts["labels"] = list(hosted.labels)
    return facts


def capabilities(hosted: HostedModel) -> list[str]:
    """What requests to this model may ask for."""
    if hosted.task != "chat":
        abilities: tuple[Ability, ...] = ("embedding", "rerank", "classify")
        return [ability for ability in abilities if hosted.can(ability)]
    optional = {
        "chat": hosted.chat_template,
        "tools": hosted.tool_call_parser not in (None, "none"),
        "reasoning": hosted.reasoning_parser not in (None, "none"),
    }
    return ["completion", *(name for name, has in optional.items() if has)]


ENDPOINTS = (
    get("/v1/models", list_models),
    get("/v1/models/{name:path}", show_model),
)
