"""Ollama's ``/api/embed`` and ``/api/embeddings``, and ``/api/rerank``, which Dify's ollama plugin asks for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from carrel.errors import InvalidParamsError
from carrel.outputs import EmbeddingRequestOutput
from carrel.params import PoolingParams
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.json_response import JsonResponse, written
from carrel_server.ollama_models import Found, find_model
from carrel_server.routes.embeddings import check_finite
from carrel_server.routes.endpoint import post
from carrel_server.routes.rerank import require_finite_scores
from carrel_server.schemas.ollama import OllamaBody, OllamaEmbedBody, OllamaEmbeddingsBody, OllamaRerankBody
from carrel_server.service import Service, service_of

FLOATS_IN_ENTRY = 64  # take as long to write as one entry of another answer


async def embed(request: Request) -> Response:
    """Unit vectors, as Ollama's. Nothing to embed means loading the model."""
    started, service = time.monotonic_ns(), service_of(request)
    body = await read_body(request, OllamaEmbedBody)
    found = checked_model(service, body)
    inputs = [body.input] if isinstance(body.input, str) and body.input else list(body.input)
    cut = -1 if body.truncate else None
    params = PoolingParams(
        normalize=True, dimensions=body.dimensions, truncate_prompt_tokens=cut, input_type=found.input_type
    )
    outputs = await vectors(request, service, found, inputs, params)
    answer = {
        "model": found.name,
        "embeddings": [output.outputs.embedding for output in outputs],
        "total_duration": time.monotonic_ns() - started,
        "load_duration": 0,
        "prompt_eval_count": sum(len(output.prompt_token_ids) for output in outputs),
    }
    truncated = [index for index, output in enumerate(outputs) if output.truncated]
    if truncated:
        answer["truncated"] = truncated
    return await written(lambda: answer, num_entries(outputs))


async def embeddings(request: Request) -> Response:
    """One vector, of the length that the model gives it. The older route: it cuts as :func:`embed` does."""
    service, body = service_of(request), await read_body(request, OllamaEmbeddingsBody)
    found = checked_model(service, body)
    params = PoolingParams(truncate_prompt_tokens=-1, input_type=found.input_type)
    outputs = await vectors(request, service, found, [body.prompt] if body.prompt else [], params)
    answer: dict[str, Any] = {"embedding": outputs[0].outputs.embedding if outputs else []}
    if outputs and outputs[0].truncated:
        answer["truncated"] = True
    return await written(lambda: answer, num_entries(outputs))


def checked_model(service: Service, body: OllamaBody) -> Found:
    body.check_keep_alive()
    return find_model(service, body, "embedding")


async def vectors(
    request: Request, service: Service, found: Found, inputs: Sequence[str], params: PoolingParams
) -> list[EmbeddingRequestOutput]:
    if not inputs:
        return []
    for index, text in enumerate(inputs):
        if not text.strip():
            raise InvalidParamsError(f"input[{index}] is empty; send only texts with content.", param="input")
    start, name = time.monotonic(), found.hosted.names[0]
    work = service.llm.embed(list(inputs), params, model=found.hosted.key)
    outputs = await until_disconnect(request.receive, work)
    check_finite(outputs)
    num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    service.metrics.pooled(name, "embedding", len(outputs), num_tokens, time.monotonic() - start)
    return outputs


def num_entries(outputs: Sequence[EmbeddingRequestOutput]) -> int:
    return sum(output.outputs.hidden_size for output in outputs) // FLOATS_IN_ENTRY


async def rerank(request: Request) -> Response:
    """Documents by descending relevance, 0..1; each ``document`` is a string."""
    service, body = service_of(request), await read_body(request, OllamaRerankBody)
    documents, limit = body.document_texts(), body.limit
    found = find_model(service, OllamaBody(model=body.model), "rerank")
    start = time.monotonic()
    work = service.llm.rerank(
        body.query,
        documents,
        top_n=limit,
        model=found.hosted.key,
        truncate_prompt_tokens=body.cut_to,
        max_tokens_per_doc=body.max_tokens_per_doc,
    )
    output = await until_disconnect(request.receive, work)
    require_finite_scores([result.raw_score for result in output.results])
    seconds = time.monotonic() - start
    service.metrics.pooled(found.hosted.names[0], "rerank", len(documents), output.num_tokens, seconds)
    results = [
        {
            "index": result.index,
            "relevance_score": result.relevance_score,
            "document": result.document,
            "raw_score": result.raw_score,
        }
        for result in output.results
    ]
    return JsonResponse({"model": found.name, "results": results, "prompt_eval_count": output.num_tokens})


ENDPOINTS = (
    post("/api/embed", embed, OllamaEmbedBody),
    post("/api/embeddings", embeddings, OllamaEmbeddingsBody),
    post("/api/rerank", rerank, OllamaRerankBody),
)
