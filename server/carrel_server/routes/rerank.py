"""``/rerank`` in the dialects of Jina, Cohere, vLLM and TEI."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from carrel.outputs import RerankOutput, RerankResult
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.errors import HttpError
from carrel_server.json_response import written
from carrel_server.routes.endpoint import post
from carrel_server.schemas.rerank import RerankBody
from carrel_server.service import new_id, service_of

DOCUMENTS_IN_A_UNIT = 100  # Cohere's search unit: one query with so many documents


async def rerank(request: Request) -> Response:
    """Documents by descending relevance, 0..1. ``texts`` in the body answers with TEI's bare list."""
    service, body = service_of(request), await read_body(request, RerankBody)
    documents, limit = body.document_texts(), body.limit
    hosted = service.model(body.model, "rerank")
    start = time.monotonic()
    work = service.llm.rerank(
        body.query,
        documents,
        model=hosted.key,
        truncate_prompt_tokens=body.cut_to,
        max_tokens_per_doc=body.max_tokens_per_doc,
    )
    output = await until_disconnect(request.receive, work)
    require_finite_scores([result.raw_score for result in output.results])
    service.metrics.pooled(hosted.names[0], "rerank", len(documents), output.num_tokens, time.monotonic() - start)
    output.results = output.results[:limit]

    def answer() -> Any:
        if body.texts is not None:
            return tei_list(output, body)
        tail = {"meta": meta(request.url.path, len(documents)) | scale(body)}
        return results_object(output, body, body.model or hosted.names[0]) | tail

    return await written(answer, len(output.results))


def require_finite_scores(scores: Sequence[float]) -> None:
    """A ranking by NaN is none.

    Raises:
        HttpError: 500.
    """
    if not all(map(math.isfinite, scores)):
        raise HttpError(500, "The model gave scores that are not finite.")


def results_object(output: RerankOutput, body: RerankBody, model: str) -> dict[str, Any]:
    results = []
    for result in output.results:
        entry: dict[str, Any] = {"index": result.index, "relevance_score": scaled(result, body)}
        if body.return_documents:
            entry["document"] = {"text": result.document}
        results.append({**entry, "raw_score": result.raw_score})
    return {
        "id": new_id("rerank"),
        "model": model,
        "usage": {"prompt_tokens": output.num_tokens, "total_tokens": output.num_tokens},
        "results": results,
    }


def meta(path: str, num_documents: int) -> dict[str, Any]:
    """Cohere's, in the version that was asked."""
    version = "1" if path.endswith("/v1/rerank") else "2"
    units = math.ceil(num_documents / DOCUMENTS_IN_A_UNIT)
    return {"api_version": {"version": version}, "billed_units": {"search_units": units}}


def scale(body: RerankBody) -> dict[str, Any]:
    """Between what the scores lie, so that nobody puts them through a sigmoid again; logits have no such bounds."""
    return {} if body.raw else {"score_range": [0.0, 1.0]}


def tei_list(output: RerankOutput, body: RerankBody) -> list[dict[str, Any]]:
    rows = []
    for result in output.results:
        row: dict[str, Any] = {"index": result.index}
        if body.return_text:
            row["text"] = result.document
        rows.append({**row, "score": scaled(result, body)})
    return rows


def scaled(result: RerankResult, body: RerankBody) -> float:
    """0..1, or the model's own scale where that was asked for."""
    return result.raw_score if body.raw else result.relevance_score


ENDPOINTS = (
    post("/rerank", rerank, RerankBody),
    post("/v1/rerank", rerank, RerankBody),
    post("/v2/rerank", rerank, RerankBody),
    post("/reranking", rerank, RerankBody),
    post("/v1/reranking", rerank, RerankBody),
)
