"""``/rerank`` in the dialects of Jina, Cohere and TEI, and ``/score``."""

from __future__ import annotations

import time
from typing import Any

from carrel.outputs import RerankOutput
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.json_response import JsonResponse
from carrel_server.routes.endpoint import post
from carrel_server.schemas.rerank import RerankBody, ScoreBody
from carrel_server.service import new_id, service_of


async def rerank(request: Request) -> Response:
    """Documents by descending relevance, 0..1. ``texts`` in the body answers with TEI's bare list."""
    service, body = service_of(request), await read_body(request, RerankBody)
    documents, limit = body.document_texts(), body.limit
    hosted = service.model(body.model, "rerank")
    start = time.monotonic()
    work = service.llm.rerank(
        body.query,
        documents,
        top_n=limit,
        model=hosted.key,
        truncate_prompt_tokens=body.cut_to,
        max_tokens_per_doc=body.max_tokens_per_doc,
    )
    output = await until_disconnect(request.receive, work)
    service.metrics.pooled(hosted.names[0], "rerank", len(documents), output.num_tokens, time.monotonic() - start)
    if body.texts is not None:
        return JsonResponse(tei_list(output, body))
    return JsonResponse(results_object(output, body, body.model or hosted.names[0]))


def results_object(output: RerankOutput, body: RerankBody, model: str) -> dict[str, Any]:
    results = []
    for result in output.results:
        entry: dict[str, Any] = {"index": result.index, "relevance_score": result.relevance_score}
        if body.return_documents:
            entry["document"] = {"text": result.document}
        results.append({**entry, "raw_score": result.raw_score})
    return {
        "id": new_id("rerank"),
        "model": model,
        "usage": {"prompt_tokens": output.num_tokens, "total_tokens": output.num_tokens},
        "results": results,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def tei_list(output: RerankOutput, body: RerankBody) -> list[dict[str, Any]]:
    rows = []
    for result in output.results:
        row: dict[str, Any] = {"index": result.index}
        if body.return_text:
            row["text"] = result.document
        row["score"] = result.raw_score if body.raw_scores else result.relevance_score
        rows.append(row)
    return rows


async def score(request: Request) -> Response:
    """One score, 0..1, for each pair of texts."""
    service, body = service_of(request), await read_body(request, ScoreBody)
    body.check()
    hosted = service.model(body.model, "rerank")
    start = time.monotonic()
    work = service.llm.score(
        body.text_1, body.text_2, model=hosted.key, truncate_prompt_tokens=body.truncate_prompt_tokens
    )
    outputs = await until_disconnect(request.receive, work)
    num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    service.metrics.pooled(hosted.names[0], "rerank", len(outputs), num_tokens, time.monotonic() - start)
    data = [{"index": i, "object": "score", "score": output.outputs.score} for i, output in enumerate(outputs)]
    return JsonResponse(
        {
            "id": new_id("score"),
            "object": "list",
            "created": int(time.time()),
            "model": body.model or hosted.names[0],
            "data": data,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }
    )


ENDPOINTS = (
    post("/rerank", rerank, RerankBody),
    post("/v1/rerank", rerank, RerankBody),
    post("/v2/rerank", rerank, RerankBody),
    post("/reranking", rerank, RerankBody),
    post("/v1/reranking", rerank, RerankBody),
    post("/score", score, ScoreBody),
    post("/v1/score", score, ScoreBody),
)
