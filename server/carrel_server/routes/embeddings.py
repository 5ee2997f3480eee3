"""``/v1/embeddings``. Vectors go from numpy's buffer to the wire; pydantic never sees them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from carrel.errors import InvalidParamsError
from carrel.outputs import EmbeddingRequestOutput
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.json_response import JsonResponse
from carrel_server.model_names import INPUT_TYPES, find_model
from carrel_server.pooling_answer import PoolingAnswer, require_finite
from carrel_server.routes.endpoint import post
from carrel_server.schemas.embedding import EmbeddingBody
from carrel_server.service import Service, new_id, service_of


async def embeddings(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, EmbeddingBody)
    hosted, input_type = find_model(service, body.model, "embedding", INPUT_TYPES)
    inputs: Any = read_inputs(body.inputs, service)  # texts and token ids may be mixed
    params = body.pooling_params(input_type)
    start = time.monotonic()
    outputs = await until_disconnect(request.receive, service.llm.embed(inputs, params, model=hosted.key))
    check_finite(outputs)
    num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    service.metrics.pooled(hosted.names[0], "embedding", len(outputs), num_tokens, time.monotonic() - start)
    answer = PoolingAnswer(new_id("embd"), body.model or hosted.names[0], num_tokens)
    vectors = [output.outputs.embedding for output in outputs]
    return JsonResponse(await answer.write(vectors, [o.truncated for o in outputs], body.encoding_format))


def read_inputs(inputs: Sequence[str | list[int]], service: Service) -> list[str | list[int]]:
    """The inputs as the engine takes them: texts, or token ids of the model's own, as the policy says.

    Raises:
        InvalidParamsError: nothing to embed, an empty text, or token ids where they are not understood.
    """
    if not inputs:
        raise InvalidParamsError("input must hold at least one text.", param="input")
    return [_read_input(index, item, service) for index, item in enumerate(inputs)]


def _read_input(index: int, item: str | list[int], service: Service) -> str | list[int]:
    if not isinstance(item, str) and service.cl100k is not None:
        item = service.cl100k.decode(item)
    if not item or (isinstance(item, str) and not item.strip()):
        raise InvalidParamsError(f"input[{index}] is empty; send only texts with content.", param="input")
    if not isinstance(item, str) and service.settings.embedding_token_ids == "reject":
        raise InvalidParamsError(
            "input holds token ids, and ids of another vocabulary give useless vectors. Send texts: with "
            "LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False. Or start the server with "
            "--embedding-token-ids cl100k, if they are those of OpenAI's tokenizer, which LangChain uses, or with "
            "--embedding-token-ids model, if they are of this model's own.",
            param="input",
        )
    return item


def check_finite(outputs: Sequence[EmbeddingRequestOutput]) -> None:
    """
    Raises:
        HttpError: 500 that names the inputs whose vectors are not finite.
    """
    require_finite([output.outputs.embedding for output in outputs])


ENDPOINTS = (
    post("/v1/embeddings", embeddings, EmbeddingBody),
    post("/embeddings", embeddings, EmbeddingBody),  # Dify's localai provider, which takes a URL without /v1
)
