"""Inputs into probabilities of labels, or into a model's raw numbers. Shared by the sync and async faces.

============================== ==================================
the head's ``problem_type``    what makes probabilities of logits
============================== ==================================
single label, or several       softmax over the labels
one label                      sigmoid
multi_label_classification     sigmoid of each label
regression                     nothing: the numbers as they are
============================== ==================================

As transformers' pipelines and vLLM do; computed in 64 bits. Knows no thread and no event loop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from carrel.errors import InvalidParamsError
from carrel.host import EngineHost
from carrel.hosted_model import HostedModel
from carrel.jobs import PoolingJob
from carrel.matryoshka import check_dimensions
from carrel.outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    FloatArray,
    PoolingOutput,
    PoolingRequestOutput,
)
from carrel.params import PoolingParams
from carrel.pooling_inputs import pooling_prompt

T = TypeVar("T")
# These say nothing to a head that gives logits.
VECTOR_FIELDS = ("dimensions", "normalize", "input_type", "prompt_name", "instruction")


class _InputJob(PoolingJob[T]):
    """One input as the caller gave it."""

    def __init__(
        self, host: EngineHost, model: HostedModel, prompt: Any, params: PoolingParams, *, request_id: str
    ) -> None:
        tokens = pooling_prompt(model, prompt, params)
        super().__init__(host, model, tokens.token_ids, replace(params, prompt_name=None), request_id=request_id)
        self._truncated = tokens.truncated


class ClassificationJob(_InputJob[ClassificationRequestOutput]):
    """The probabilities of one input's labels."""

    def _result(self, pooled: FloatArray) -> ClassificationRequestOutput:
        request = self.requests[0]
        return ClassificationRequestOutput(
            request_id=request.request_id,
            outputs=ClassificationOutput(probabilities(pooled, self.model.config.problem_type)),
            prompt_token_ids=request.prompt_token_ids,
            truncated=self._truncated,
        )


class RawPoolingJob(_InputJob[PoolingRequestOutput]):
    """One input's vector, or logits, as the model gives them."""

    def _result(self, pooled: FloatArray) -> PoolingRequestOutput:
        request = self.requests[0]
        return PoolingRequestOutput(
            request_id=request.request_id,
            outputs=PoolingOutput(pooled),
            prompt_token_ids=request.prompt_token_ids,
            truncated=self._truncated,
        )


def classification_job(
    host: EngineHost, model: HostedModel, prompt: Any, params: PoolingParams, *, request_id: str
) -> ClassificationJob:
    """The job that classifies one input.

    Raises:
        ContextLengthError: the input is too long, and ``params`` do not say to cut it.
        InvalidParamsError: ``params`` say something about vectors.
    """
    _refuse_vector_fields(model, params)
    return ClassificationJob(host, model, prompt, params, request_id=request_id)


def raw_pooling_job(
    host: EngineHost, model: HostedModel, prompt: Any, params: PoolingParams, *, request_id: str
) -> RawPoolingJob:
    """The job that gives the raw numbers of one input: of an embedder the vector, not normalised unless asked.

    Raises:
        ContextLengthError: the input is too long, and ``params`` do not say to cut it.
        InvalidParamsError: ``dimensions`` that the model was not trained for, or anything about vectors where there
            are none.
    """
    dim = model.embedding_dim
    if dim is None:
        _refuse_vector_fields(model, params)
    else:
        check_dimensions(model.key, params.dimensions, dim, matryoshka=model.matryoshka)
        params = replace(params, normalize=bool(params.normalize))
    return RawPoolingJob(host, model, prompt, params, request_id=request_id)


def _refuse_vector_fields(model: HostedModel, params: PoolingParams) -> None:
    for name in VECTOR_FIELDS:
        if getattr(params, name) is not None:
            raise InvalidParamsError(f"{model.key} gives logits, not vectors, so {name} says nothing here.", param=name)


def probabilities(logits: FloatArray, problem_type: str | None) -> list[float]:
    """Of each label.

    >>> probabilities(np.array([0.0, 0.0], dtype=np.float32), None)
    [0.5, 0.5]
    """
    values = logits.astype(np.float64)
    if problem_type == "regression":
        return [float(value) for value in values]
    if problem_type == "multi_label_classification" or len(values) == 1:
        return [float(value) for value in 0.5 * (1.0 + np.tanh(0.5 * values))]  # the sigmoid, without overflow
    powers = np.exp(values - values.max())
    return [float(value) for value in powers / powers.sum()]
