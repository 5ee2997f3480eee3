"""What a caller waits for: a job has requests, takes the engine's news in and gives results out.

The same jobs run under both faces. Knows no thread and no event loop: :mod:`carrel.sync_runner` and
:mod:`carrel.async_runner` move the news.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from carrel.errors import CarrelError, EngineClosedError
from carrel.host import EngineHost
from carrel.hosted_model import HostedModel
from carrel.inputs import TokenizedPrompt, cut_prompt, generation_requests
from carrel.output_processor import OutputProcessor
from carrel.outputs import EmbeddingOutput, EmbeddingRequestOutput, FinishReason, FloatArray, RequestOutput
from carrel.params import PoolingParams, SamplingParams
from carrel.parsers.base import AnswerFormat
from carrel.request import Request
from carrel.step import EngineOutput

T = TypeVar("T")


class Job(ABC, Generic[T]):
    """One prompt or one input on its way through the engine."""

    requests: list[Request]
    error: CarrelError | None = None  # set instead of a result
    _early_end: FinishReason = "abort"  # why its requests ended that did not finish

    def __init__(self, host: EngineHost, model: HostedModel) -> None:
        self.host = host
        self.model = model

    def feed(self, outputs: Sequence[EngineOutput]) -> list[str]:
        """Take the engine's news in; ids to abort in return."""
        was_finished = self.finished
        for output in outputs:
            self.error = self.error or self._error_of(output)
            if output.finish_reason == "error":
                self._early_end = "error"
        failed = self.error is not None
        to_abort = [request.request_id for request in self.requests] if failed else self._feed(outputs)
        if self.finished and not was_finished:
            self._count()
        return to_abort

    def abandon(self) -> None:
        """The reader leaves and aborts what has not ended; that is an end, too, and is counted."""
        if not self.finished:
            self._count()

    def take(self) -> T | None:
        """What there is to show now.

        Raises:
            CarrelError: the request failed, or the engine was closed.
        """
        if self.error is not None:
            raise self.error
        return self._take()

    @property
    @abstractmethod
    def finished(self) -> bool: ...

    @abstractmethod
    def _feed(self, outputs: Sequence[EngineOutput]) -> list[str]: ...

    @abstractmethod
    def _take(self) -> T | None: ...

    @abstractmethod
    def _count(self) -> None:
        """Tell the host's metrics how this job has ended."""

    def _error_of(self, output: EngineOutput) -> CarrelError | None:
        if output.finish_reason == "abort" and not self.host.is_alive:
            return EngineClosedError("The engine was closed before the request was finished.")
        if output.finish_reason == "error":
            return output.error or CarrelError("The engine failed on this request and gave no reason.")
        return None


class GenerationJob(Job[RequestOutput]):
    """One prompt, ``n`` completions; of a chat, ``answer`` says how they are written."""

    def __init__(
        self,
        host: EngineHost,
        model: HostedModel,
        prompt: TokenizedPrompt,
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
        answer: AnswerFormat | None = None,
    ) -> None:
        super().__init__(host, model)
        self.request_id = request_id
        prompt = cut_prompt(model, prompt, params)
        self._truncated = prompt.truncated
        seed = host.fresh_seed() if params.seed is None else params.seed
        self.requests = generation_requests(
            model,
            prompt,
            params,
            request_id=request_id,
            seed=seed,
            priority=priority,
            cache_salt=cache_salt,
            answer=answer,
        )
        self._processor = OutputProcessor(request_id, prompt.text, self.requests, params, model.tokenizer, answer)

    @property
    def finished(self) -> bool:
        return self.error is not None or self._processor.finished

    def _feed(self, outputs: Sequence[EngineOutput]) -> list[str]:
        return self._processor.feed(outputs)

    def _take(self) -> RequestOutput | None:
        output = self._processor.take()
        if output is not None:
            output.truncated = self._truncated
        return output

    def _count(self) -> None:
        times, children = self._processor.metrics, self._processor.completions
        first, end = times.first_token_time, times.finished_time or time.monotonic()
        self.host.metrics.generation_finished(
            self.model.key,
            reasons=[child.finish_reason or self._early_end for child in children],
            num_prompt_tokens=len(self._processor.prompt_token_ids),
            num_generated_tokens=sum(len(child.token_ids) for child in children),
            time_to_first_token=None if first is None else first - times.arrival_time,
            latency=end - times.arrival_time,
        )


class PoolingJob(Job[T]):
    """One input, one array: an embedding [dim], or what ``RequestResult.pooled`` has of a pair."""

    def __init__(
        self,
        host: EngineHost,
        model: HostedModel,
        token_ids: list[int],
        params: PoolingParams,
        *,
        request_id: str,
        token_type_ids: list[int] | None = None,
        wants_spans: bool = False,
    ) -> None:
        super().__init__(host, model)
        request = Request(
            request_id=request_id,
            model=model.runner_key,
            prompt_token_ids=token_ids,
            pooling_params=params,
            token_type_ids=token_type_ids,
            wants_spans=wants_spans,
        )
        self.requests = [request]
        self._pooled: FloatArray | None = None

    @property
    def finished(self) -> bool:
        return self.error is not None or self._pooled is not None

    def _feed(self, outputs: Sequence[EngineOutput]) -> list[str]:
        for output in outputs:
            if output.pooled is not None:
                self._pooled = output.pooled
            elif output.finished:
                self.error = CarrelError("The request was aborted.")
        return []

    def _take(self) -> T | None:
        return None if self._pooled is None else self._result(self._pooled)

    @abstractmethod
    def _result(self, pooled: FloatArray) -> T: ...

    def _count(self) -> None:
        request = self.requests[0]
        self.host.metrics.pooling_finished(
            self.model.key,
            reason=self._early_end if self._pooled is None else "stop",
            num_tokens=request.num_prompt_tokens,
            latency=time.monotonic() - request.arrival_time,
        )


class EmbeddingJob(PoolingJob[EmbeddingRequestOutput]):
    """The vector of one input."""

    truncated = False  # the caller's text was longer

    def _result(self, pooled: FloatArray) -> EmbeddingRequestOutput:
        request = self.requests[0]
        return EmbeddingRequestOutput(
            request_id=request.request_id,
            outputs=EmbeddingOutput(pooled),
            prompt_token_ids=request.prompt_token_ids,
            truncated=self.truncated,
        )


class LogitJob(PoolingJob[float]):
    """The raw logit of one pair."""

    def _result(self, pooled: FloatArray) -> float:
        return float(pooled[0])
