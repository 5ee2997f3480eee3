"""``/pooling``: what a model makes of an input, raw. ``/classify``: the probabilities of a classifier's labels."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from carrel.outputs import ClassificationRequestOutput, FloatArray, PoolingRequestOutput
from fastapi import Request
from starlette.responses import Response

from carrel_server.body import read_body
from carrel_server.disconnect import until_disconnect
from carrel_server.json_response import JsonResponse
from carrel_server.model_names import INPUT_TYPES, find_model
from carrel_server.pooling_answer import PoolingAnswer, require_finite
from carrel_server.routes.embeddings import read_inputs
from carrel_server.routes.endpoint import post
from carrel_server.schemas.pooling import ClassifyBody, RawPoolingBody
from carrel_server.service import Service, new_id, service_of

if TYPE_CHECKING:
    from carrel.config import Ability
    from carrel.hosted_model import HostedModel
    from carrel.params import PoolingParams

Output = PoolingRequestOutput | ClassificationRequestOutput
ABILITIES: dict[str | None, Ability] = {None: "pooling", "embed": "embedding", "classify": "classify"}


async def pooling(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, RawPoolingBody)
    hosted, input_type = find_model(service, body.model, ABILITIES[body.task], INPUT_TYPES)
    inputs: Any = read_inputs(body.inputs, service)
    params = body.pooling_params(input_type)
    if hosted.embedding_dim is not None:
        normalize = body.activated if body.normalize is None else body.normalize
        work = _numbers(service, hosted, inputs, replace(params, normalize=normalize), activated=False)
    else:
        params = replace(params, normalize=body.normalize)  # use_activation says another thing here
        work = _numbers(service, hosted, inputs, params, activated=body.activated)
    arrays, outputs = await until_disconnect(request.receive, work)
    answer = PoolingAnswer(new_id("pool"), body.model or hosted.names[0], _count(outputs), kind="pooling", field="data")
    return JsonResponse(await answer.write(arrays, [output.truncated for output in outputs], body.encoding_format))


async def classify(request: Request) -> Response:
    service, body = service_of(request), await read_body(request, ClassifyBody)
    hosted = service.model(body.model, "classify")
    inputs: Any = read_inputs(body.inputs, service)
    work = _numbers(service, hosted, inputs, body.pooling_params(), activated=body.use_activation)
    arrays, outputs = await until_disconnect(request.receive, work)
    data = [
        _class(index, hosted.labels, array, truncated=output.truncated)
        for index, (array, output) in enumerate(zip(arrays, outputs, strict=True))
    ]
    num_tokens = _count(outputs)
    return JsonResponse(
        {
            "id": new_id("classify"),
            "object": "list",
            "created": int(time.time()),
            "model": body.model or hosted.names[0],
            "data": data,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0},
        }
    )


async def _numbers(
    service: Service, hosted: HostedModel, inputs: Any, params: PoolingParams, *, activated: bool
) -> tuple[list[FloatArray], Sequence[Output]]:
    """One array an input: probabilities if ``activated``, else what the model gives."""
    llm, start = service.llm, time.monotonic()
    work: Coroutine[Any, Any, Sequence[Output]]
    work = (llm.classify if activated else llm.encode)(inputs, params, model=hosted.key)
    outputs = await work
    arrays = [_array(output) for output in outputs]
    require_finite(arrays)
    service.metrics.pooled(hosted.names[0], "pooling", len(outputs), _count(outputs), time.monotonic() - start)
    return arrays, outputs


def _array(output: Output) -> FloatArray:
    if isinstance(output, PoolingRequestOutput):
        return output.outputs.data
    return np.asarray(output.outputs.probs, dtype=np.float32)


def _class(index: int, labels: Sequence[str], numbers: FloatArray, *, truncated: bool) -> dict[str, Any]:
    row = {"index": index, "label": labels[int(numbers.argmax())], "probs": numbers, "num_classes": len(numbers)}
    return {**row, "truncated": True} if truncated else row


def _count(outputs: Sequence[Output]) -> int:
    return sum(len(output.prompt_token_ids) for output in outputs)


ENDPOINTS = (
    post("/pooling", pooling, RawPoolingBody),
    post("/classify", classify, ClassifyBody),
)
