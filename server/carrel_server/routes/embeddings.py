"""``/v1/embeddings``. Vectors go from numpy's buffer to the wire; pydantic never sees them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from carrel.errors import InvalidParamsError
from carrel.outputs import EmbeddingRequestOutput
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.errors import HttpError
from carrel_server.json_response import JsonResponse, dumps
from carrel_server.routes.endpoint import post
from carrel_server.schemas.embedding import EmbeddingBody
from carrel_server.service import Service, new_id, service_of

FLOATS_IN_LOOP = 65_536  # more numbers than this are written in a thread, or the event loop would stand still


async def embeddings(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, EmbeddingBody)
    hosted = service.model(body.model, "embedding")
    inputs: Any = body.inputs  # texts and token ids may be mixed, which OpenAI allows
    check_inputs(inputs, service)
    start = time.monotonic()
    work = service.llm.embed(inputs, body.pooling_params(), model=hosted.key)
    outputs = await until_disconnect(request.receive, work)
    check_finite(outputs)
    num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    service.metrics.pooled(hosted.names[0], "embedding", len(outputs), num_tokens, time.monotonic() - start)
    answer: dict[str, Any] = {
        "object": "list",
        "data": [],
        "model": body.model or hosted.names[0],
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        "id": new_id("embd"),
    }
    return JsonResponse(await write_answer(answer, outputs, body.encoding_format))


def check_inputs(inputs: Sequence[str | Sequence[int]], service: Service) -> None:
    """
    Raises:
        InvalidParamsError: nothing to embed, an empty text, or token ids where they are not understood.
    """
    if not inputs:
        raise InvalidParamsError("input must hold at least one text.", param="input")
    for index, item in enumerate(inputs):
        if not item or (isinstance(item, str) and not item.strip()):
            raise InvalidParamsError(f"input[{index}] is empty; send only texts with content.", param="input")
        if not isinstance(item, str) and service.settings.embedding_token_ids == "reject":
            raise InvalidParamsError(
                "input holds token ids, and ids of another vocabulary give useless vectors. Send texts: with "
                "LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False. To accept ids of this model's own "
                "tokenizer, start the server with --embedding-token-ids model.",
                param="input",
            )


def check_finite(outputs: Sequence[EmbeddingRequestOutput]) -> None:
    """A vector with NaN would poison an index; better no vector.

    Raises:
        HttpError: 500 that names the inputs.
    """
    bad = [index for index, output in enumerate(outputs) if not np.isfinite(output.outputs.embedding).all()]
    if bad:
        raise HttpError(500, f"The model gave vectors that are not finite for input {bad[:20]}.", param="input")


async def write_answer(answer: dict[str, Any], outputs: Sequence[EmbeddingRequestOutput], encoding: str) -> bytes:
    num_floats = sum(output.outputs.hidden_size for output in outputs)
    if num_floats <= FLOATS_IN_LOOP:
        return _write(answer, outputs, encoding)
    return await asyncio.to_thread(_write, answer, outputs, encoding)


def _write(answer: dict[str, Any], outputs: Sequence[EmbeddingRequestOutput], encoding: str) -> bytes:
    """Row by row, so that a thread that writes a long answer lets the others in between."""
    rows = [dumps(_row(index, output, encoding)) for index, output in enumerate(outputs)]
    head, tail = dumps(answer).split(b'"data":[]', 1)
    return head + b'"data":[' + b",".join(rows) + b"]" + tail


def _row(index: int, output: EmbeddingRequestOutput, encoding: str) -> dict[str, Any]:
    vector = np.ascontiguousarray(output.outputs.embedding, dtype="<f4")
    value = base64.b64encode(vector.data).decode() if encoding == "base64" else vector
    row = {"index": index, "object": "embedding", "embedding": value}
    return {**row, "truncated": True} if output.truncated else row


ENDPOINTS = (post("/v1/embeddings", embeddings, EmbeddingBody),)
