"""How well two texts fit, by a cross-encoder or by the cosine of two vectors. Shared by the sync and async faces.

============== =========================== ============================================
kind           ``raw_score``               ``score``
============== =========================== ============================================
cross-encoder  the model's logit           its sigmoid, computed in 64 bits
bi-encoder     the cosine, −1 … 1          the cosine, and 0 where it is negative
============== =========================== ============================================

Rankings go by ``raw_score``: it still tells two documents apart where ``score`` has run into 0 or 1. The query is kept
whole and only the document is ever cut. Knows no thread and no event loop.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carrel.errors import ContextLengthError, InvalidParamsError, RequestError, UnsupportedModelError
from carrel.host import EngineHost
from carrel.hosted_model import HostedModel
from carrel.inputs import check_token_ids
from carrel.jobs import EmbeddingJob, Job, LogitJob
from carrel.matryoshka import check_dimensions
from carrel.outputs import (
    EmbeddingRequestOutput,
    RerankOutput,
    RerankResult,
    ScoringOutput,
    ScoringRequestOutput,
)
from carrel.params import PoolingParams
from carrel.pooling_inputs import pooling_limit, pooling_prompt

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """How long inputs are cut. ``whole`` -1: to the model's limit; None: too long is an error."""

    whole: int | None = None
    document: int | None = None  # tokens of the document alone

    def __post_init__(self) -> None:
        PoolingParams(truncate_prompt_tokens=self.whole)
        if self.document is not None and self.document < 1:
            raise InvalidParamsError(
                f"max_tokens_per_doc must be at least 1, got {self.document}.", param="max_tokens_per_doc"
            )


class ScoringPlan(ABC):
    """The jobs that a list of pairs needs, and what to make of their results."""

    jobs: Sequence[Job[Any]]

    @abstractmethod
    def outputs(self, results: Sequence[Any]) -> list[ScoringRequestOutput]:
        """Scores in the order of the pairs; ``results`` in the order of ``jobs``."""


def plan_scoring(
    host: EngineHost, model: HostedModel, pairs: Sequence[Pair], truncation: Truncation, *, request_id: str
) -> ScoringPlan:
    """Tokenize the pairs for the kind of reranker that ``model`` is.

    Raises:
        ContextLengthError: a pair is too long and may not be cut, or a query leaves no room for its document.
        UnsupportedModelError: the model gives several scores for a pair.
    """
    for pair in pairs:
        if not all(isinstance(text, str) for text in pair):
            raise RequestError("Only texts can be scored: give strings.", param="documents")
    if model.reranker_kind == "cross-encoder":
        return _CrossEncoderPlan(host, model, pairs, truncation, request_id)
    return _BiEncoderPlan(host, model, pairs, truncation, request_id)


class _CrossEncoderPlan(ScoringPlan):
    def __init__(
        self, host: EngineHost, model: HostedModel, pairs: Sequence[Pair], truncation: Truncation, request_id: str
    ) -> None:
        if model.config.num_labels != 1:
            raise UnsupportedModelError(
                f"{model.key} gives {model.config.num_labels} scores for a pair; a reranker gives one."
            )
        self._request_id = request_id
        self.jobs = [
            LogitJob(
                host, model, pair.ids, PoolingParams(), request_id=f"{request_id}-{i}", token_type_ids=pair.type_ids
            )
            for i, pair in enumerate(encode_pair(model, *texts, truncation) for texts in pairs)
        ]

    def outputs(self, results: Sequence[float]) -> list[ScoringRequestOutput]:
        return [
            ScoringRequestOutput(
                f"{self._request_id}-{i}", ScoringOutput(sigmoid(logit), logit), job.requests[0].prompt_token_ids
            )
            for i, (job, logit) in enumerate(zip(self.jobs, results, strict=True))
        ]


class _BiEncoderPlan(ScoringPlan):
    """Each different text is embedded once, as a query or as a document."""

    def __init__(
        self, host: EngineHost, model: HostedModel, pairs: Sequence[Pair], truncation: Truncation, request_id: str
    ) -> None:
        self._request_id = request_id
        cut = truncation.whole if truncation.document is None else pooling_limit(model, truncation.whole)
        cut = cut if truncation.document is None else min(cut or truncation.document, truncation.document)
        as_query = PoolingParams(input_type="query", normalize=True)
        as_document = PoolingParams(input_type="document", normalize=True, truncate_prompt_tokens=cut)
        sides = [((text, as_query), (document, as_document)) for text, document in pairs]
        texts = list(dict.fromkeys(side for pair in sides for side in pair))
        place = {side: i for i, side in enumerate(texts)}
        self._pairs = [(place[query], place[document]) for query, document in sides]
        self.jobs = [
            _scored_text(host, model, text, params, request_id=f"{request_id}-{i}")
            for i, (text, params) in enumerate(texts)
        ]

    def outputs(self, results: Sequence[EmbeddingRequestOutput]) -> list[ScoringRequestOutput]:
        vectors = [result.outputs.embedding for result in results]
        scored = []
        for i, (query, document) in enumerate(self._pairs):
            cosine = float(np.clip(np.dot(vectors[query].astype(np.float64), vectors[document]), -1.0, 1.0))
            ids = results[query].prompt_token_ids + results[document].prompt_token_ids
            scored.append(ScoringRequestOutput(f"{self._request_id}-{i}", ScoringOutput(max(cosine, 0.0), cosine), ids))
        return scored


def _scored_text(
    host: EngineHost, model: HostedModel, text: str, params: PoolingParams, *, request_id: str
) -> EmbeddingJob:
    try:
        return embedding_job(host, model, text, params, request_id=request_id)
    except ContextLengthError as error:
        part, advice = "document", ", or set truncate_prompt_tokens=-1 to cut it"
        if params.input_type == "query":
            part, advice = "query", "; it is never cut"
        raise ContextLengthError(
            f"This model's maximum context length is {error.max_model_len} tokens. However, the {part} has "
            f"{error.num_tokens} tokens. Shorten it{advice}.",
            num_tokens=error.num_tokens,
            max_model_len=error.max_model_len,
            param="query" if part == "query" else "documents",
        ) from None


def embedding_job(
    host: EngineHost, model: HostedModel, prompt: Any, params: PoolingParams, *, request_id: str
) -> EmbeddingJob:
    """The job that embeds one input.

    Raises:
        ContextLengthError: the input is too long, and ``params`` do not say to cut it.
        InvalidParamsError: ``dimensions`` that the model was not trained for.
    """
    dim = model.embedding_dim
    assert dim is not None, "only embedders are asked for vectors"
    check_dimensions(model.key, params.dimensions, dim, matryoshka=model.matryoshka)
    tokens = pooling_prompt(model, prompt, params)
    job = EmbeddingJob(host, model, tokens.token_ids, replace(params, prompt_name=None), request_id=request_id)
    job.truncated = tokens.truncated
    return job


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A query and a document as one input of a cross-encoder."""

    ids: list[int]
    type_ids: list[int] | None  # None: the model has no segments
    encoding: Any  # the backend's

    def document_tokens(self) -> tuple[int, list[tuple[int, int]]]:
        """The place of the document's first token, and for each of its tokens the characters [start, end) of it."""
        places = [i for i, side in enumerate(self.encoding.sequence_ids) if side == 1]
        offsets = self.encoding.offsets
        return (places[0] if places else 0), [offsets[i] for i in places]


def encode_pair(model: HostedModel, query: str, document: str, truncation: Truncation) -> EncodedPair:
    """
    Raises:
        ContextLengthError: the pair is too long and may not be cut, or the query leaves no room for the document.
    """
    limit = pooling_limit(model, truncation.whole)
    max_length = None if truncation.whole is None else limit
    tokenizer, most = model.tokenizer, truncation.document
    encoding = tokenizer.pair(query, document, max_length, max_second=most, enough=limit)
    ids = list(encoding.ids)
    if len(ids) > limit:
        raise ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, a query and its document have "
            f"{len(ids)} tokens. Shorten them, or set truncate_prompt_tokens=-1 to cut the document.",
            num_tokens=len(ids),
            max_model_len=limit,
            param="documents",
        )
    types = list(encoding.type_ids) if model.config.type_vocab_size > 1 else None
    return EncodedPair(check_token_ids(model, ids), types, encoding)


def make_pairs(text_1: str | Sequence[str], text_2: str | Sequence[str]) -> list[Pair]:
    """Pairs of 1 with n texts, or of n with n.

    >>> make_pairs("q", ["a", "b"])
    [('q', 'a'), ('q', 'b')]
    """
    first = [text_1] if isinstance(text_1, str) else list(text_1)
    second = [text_2] if isinstance(text_2, str) else list(text_2)
    if not first or not second:
        raise RequestError("There is nothing to score: a list of texts is empty.", param="text_2")
    if len(first) == 1:
        first *= len(second)
    if len(first) != len(second):
        raise RequestError(f"Score 1 with n texts or n with n, not {len(first)} with {len(second)}.", param="text_2")
    return list(zip(first, second, strict=True))


def check_rerank(documents: Sequence[str], top_n: int | None) -> list[str]:
    """The documents as a list.

    Raises:
        RequestError: there is none.
        InvalidParamsError: ``top_n`` is negative.
    """
    if isinstance(documents, str):
        raise RequestError("documents must be a list of strings, not one string.", param="documents")
    if not documents:
        raise RequestError("documents must hold at least one document.", param="documents")
    if top_n is not None and top_n < 0:
        raise InvalidParamsError(f"top_n must be at least 1, or null for all, got {top_n}.", param="top_n")
    return list(documents)


def ranked(
    model: HostedModel,
    documents: Sequence[str],
    scored: Sequence[ScoringRequestOutput],
    top_n: int | None,
    *,
    request_id: str,
) -> RerankOutput:
    """Documents by descending raw score; equal ones keep their order. ``top_n`` None or 0 is all."""
    order = sorted(range(len(scored)), key=lambda i: -scored[i].outputs.raw_score)  # sorted() is stable
    results = [
        RerankResult(i, documents[i], scored[i].outputs.score, scored[i].outputs.raw_score)
        for i in order[: top_n or len(order)]
    ]
    num_tokens = sum(len(pair.prompt_token_ids) for pair in scored)
    return RerankOutput(request_id=request_id, model=model.key, results=results, num_tokens=num_tokens)


def sigmoid(logit: float) -> float:
    """In 64 bits, and without overflow on either side."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))
