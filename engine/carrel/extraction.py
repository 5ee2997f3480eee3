"""Where in each document the answer to a question stands, by a reranker that has a head for spans.

::

    [CLS] question [SEP] d0 d1 d2 … [SEP]
      │                  start and end logits for each token d → the pair (i, j) with the highest start[i] + end[j],
      │                                                         i ≤ j < i + max_span_tokens
      └ relevance of the document

One forward pass gives both. Pairs are cut as those of a ranking. Knows no thread and no event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from carrel.errors import InvalidParamsError, RequestError
from carrel.host import EngineHost
from carrel.hosted_model import HostedModel
from carrel.jobs import PoolingJob
from carrel.outputs import ExtractionOutput, ExtractionResult, FloatArray
from carrel.params import PoolingParams
from carrel.scoring import EncodedPair, Truncation, check_rerank, encode_pair, sigmoid

NO_SPAN = float("-inf")


class ExtractionJob(PoolingJob[ExtractionResult]):
    """One document and its best piece."""

    def __init__(
        self,
        host: EngineHost,
        model: HostedModel,
        pair: EncodedPair,
        document: str,
        index: int,
        max_span_tokens: int,
        *,
        request_id: str,
    ) -> None:
        super().__init__(
            host,
            model,
            pair.ids,
            PoolingParams(),
            request_id=request_id,
            token_type_ids=pair.type_ids,
            wants_spans=True,
        )
        self._document, self._index, self._max_span_tokens = document, index, max_span_tokens
        self._first, self._offsets = pair.document_tokens()

    def _result(self, pooled: FloatArray) -> ExtractionResult:
        logit = float(pooled[0])
        start, end = pooled[1:].reshape(2, -1)[:, self._first : self._first + len(self._offsets)]
        first, last, score = best_span(start, end, self._max_span_tokens)
        begins, ends = (self._offsets[first][0], self._offsets[last][1]) if score > NO_SPAN else (0, 0)
        text = self._document[begins:ends]
        begins, text = begins + len(text) - len(text.lstrip()), text.strip()  # some tokens begin with their space
        return ExtractionResult(self._index, begins, begins + len(text), text, score, sigmoid(logit), logit)


class ExtractionPlan:
    """The jobs of one question, and what to make of their results."""

    def __init__(
        self,
        host: EngineHost,
        model: HostedModel,
        question: str,
        documents: Sequence[str],
        max_span_tokens: int,
        truncation: Truncation,
        *,
        request_id: str,
    ) -> None:
        """
        Raises:
            RequestError: there is no document, or the question leaves no room for one.
            InvalidParamsError: ``max_span_tokens`` is below 1.
        """
        if max_span_tokens < 1:
            raise InvalidParamsError(
                f"max_span_tokens must be at least 1, got {max_span_tokens}.", param="max_span_tokens"
            )
        texts = check_rerank(documents, None)
        if not all(isinstance(text, str) for text in (question, *texts)):
            raise RequestError("Only texts can be read: give strings.", param="documents")
        self._model, self._request_id = model, request_id
        self.jobs = [
            ExtractionJob(
                host,
                model,
                encode_pair(model, question, text, truncation),
                text,
                index,
                max_span_tokens,
                request_id=f"{request_id}-{index}",
            )
            for index, text in enumerate(texts)
        ]

    def output(self, results: Sequence[ExtractionResult]) -> ExtractionOutput:
        """``results`` in the order of ``jobs``."""
        num_tokens = sum(job.requests[0].num_prompt_tokens for job in self.jobs)
        return ExtractionOutput(self._request_id, self._model.key, list(results), num_tokens)


def best_span(start: FloatArray, end: FloatArray, max_tokens: int) -> tuple[int, int, float]:
    """First and last token of the span with the highest ``start[first] + end[last]``, and that sum.

    Of equal ones the first, and of those that start there the shortest. Without tokens the sum is minus infinity.

    >>> best_span(np.array([0, 3, 1], dtype=np.float32), np.array([9, 1, 2], dtype=np.float32), max_tokens=2)
    (0, 0, 9.0)
    """
    if not len(start):
        return 0, 0, NO_SPAN
    length = min(max_tokens, len(start))
    ends = np.concatenate((end.astype(np.float64), np.full(length - 1, -np.inf)))
    windows = sliding_window_view(ends, length)  # [num_tokens, length]; row i is end[i : i + length]
    best = windows.argmax(axis=1)
    places = np.arange(len(start))
    sums = start + windows[places, best]  # [num_tokens], in 64 bits
    first = int(sums.argmax())
    return first, first + int(best[first]), float(sums[first])
