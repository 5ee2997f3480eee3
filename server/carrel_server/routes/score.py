"""``/score``: how well two texts fit, for each pair."""

from __future__ import annotations

import time

from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.json_response import JsonResponse
from carrel_server.routes.endpoint import post
from carrel_server.routes.rerank import require_finite_scores
from carrel_server.schemas.score import ScoreBody
from carrel_server.service import new_id, service_of


async def score(request: Request) -> Response:
    """One score, 0..1, for each pair of texts."""
    service, body = service_of(request), await read_body(request, ScoreBody)
    first, second = body.pairs()
    hosted, cut = service.model(body.model, "rerank"), body.cut(None)
    start = time.monotonic()
    work = service.llm.score(first, second, model=hosted.key, truncate_prompt_tokens=cut)
    outputs = await until_disconnect(request.receive, work)
    scores = [output.outputs for output in outputs]
    require_finite_scores([pair.raw_score for pair in scores])
    num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    service.metrics.pooled(hosted.names[0], "rerank", len(outputs), num_tokens, time.monotonic() - start)
    data = [
        {
            "index": index,
            "object": "score",
            "score": pair.raw_score if body.raw else pair.score,
            "raw_score": pair.raw_score,
        }
        for index, pair in enumerate(scores)
    ]
    return JsonResponse(
        {
            "id": new_id("score"),
            "object": "list",
            "created": int(time.time()),
            "model": body.model or hosted.names[0],
            "data": data,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0},
        }
    )


ENDPOINTS = (
    post("/score", score, ScoreBody),
    post("/v1/score", score, ScoreBody),
)
