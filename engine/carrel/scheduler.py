"""One scheduler for chat, embeddings and rerank: what runs next, and what its results mean for each request.

Knows requests, from acceptance to the terminal output. Does not know devices, tensors, text or threads.

There are no phases. A request has tokens and a count of those computed; every step lets the count catch up, by a chunk
of a prompt or by one token. :class:`~carrel.step_planner.StepPlanner` says who catches up in a step, this module keeps
the books.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from carrel.admission import check_chat_fits, check_pooling_fits
from carrel.chat_lane import ChatLane
from carrel.errors import CarrelError, StepError
from carrel.kv_cache import KVCacheManager
from carrel.outputs import FloatArray, RequestMetrics
from carrel.pooling_lane import PoolingLane
from carrel.request import Request, RequestStatus
from carrel.stats import KVCacheStats, SchedulerStats
from carrel.step import (
    EngineOutput,
    ModelBatch,
    RequestResult,
    ScheduledRequest,
    SchedulerOutput,
    TokenLogprobs,
    TokensOutput,
)
from carrel.step_planner import StepPlanner
from carrel.stopping import append_tokens


class Scheduler:
    """The scheduler of one engine: all its chat models and all its pooling models.

    ``kv_managers`` holds the KV cache of each chat model by model key; ``pooling_models`` the longest input, in
    tokens, of each embedding and rerank model. ``max_pooling_tokens_while_decoding`` is a quarter of the budget if
    None. Not thread-safe but for :meth:`check_fits` and :meth:`stats`.

    >>> scheduler = Scheduler({}, pooling_models={"embedder": 512})
    >>> scheduler.has_unfinished, scheduler.schedule().batches
    (False, [])
    """

    def __init__(
        self,
        kv_managers: Mapping[str, KVCacheManager],
        *,
        pooling_models: Mapping[str, int] | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 2048,
        max_pooling_tokens_while_decoding: int | None = None,
    ) -> None:
        assert max_num_seqs >= 1 and max_num_batched_tokens >= 1, "limits are positive"
        self._lanes = {model: ChatLane(model, kv_cache) for model, kv_cache in kv_managers.items()}
        self._pooling_models = dict(pooling_models or {})
        assert not self._lanes.keys() & self._pooling_models.keys(), "a model chats or pools"
        self._pooling = PoolingLane(max_pooling_tokens_while_decoding or max(1, max_num_batched_tokens // 4))
        self._planner = StepPlanner(
            self._lanes, self._pooling, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens
        )
        self._requests: dict[str, Request] = {}  # all unfinished ones
        self._prompt_logprobs: dict[str, list[TokenLogprobs]] = {}  # of requests that have no token yet
        self._num_accepted = 0
        self._num_steps = self._num_prompt_tokens = self._num_generated_tokens = self._num_pooled_tokens = 0

    def check_fits(self, request: Request) -> None:
        """Refuse what can never be computed. Reads only what never changes, so any thread may call it.

        Raises:
            ContextLengthError: more tokens than the model's context.
            CapacityError: more tokens than the whole KV cache holds.
            InvalidParamsError: the prompt holds something that is no token id.
        """
        if request.is_pooling:
            check_pooling_fits(request, self._pooling_models[request.model])
        else:
            check_chat_fits(request, self._lanes[request.model].kv_cache)

    def add_request(self, request: Request) -> None:
        """Queue a request that :meth:`check_fits` let pass."""
        assert request.request_id not in self._requests, f"request {request.request_id} is here already"
        request.order = self._num_accepted
        self._num_accepted += 1
        self._requests[request.request_id] = request
        queue = self._pooling.waiting if request.is_pooling else self._lanes[request.model].waiting
        queue.push(request)

    def abort(self, request_ids: Sequence[str]) -> list[EngineOutput]:
        """End these requests, at any moment; their blocks are free on return. Unknown and ended ids are passed over."""
        requests = [self._requests[request_id] for request_id in dict.fromkeys(request_ids) if self.holds(request_id)]
        return [self._end(request, RequestStatus.FINISHED_ABORTED) for request in requests]

    def fail_all(self, error: CarrelError) -> list[EngineOutput]:
        """End every request with ``error``."""
        return [self._fail(request, error) for request in list(self._requests.values())]

    def holds(self, request_id: str) -> bool:
        """Whether a request of this id is unfinished."""
        return request_id in self._requests

    def schedule(self) -> SchedulerOutput:
        """Choose the work of the next step; one step may be in flight, scheduled and not yet taken in by update().

        Empty only if nothing is unfinished, or if all that is waits for the step in flight.
        """
        output = self._planner.plan()
        self._num_steps += bool(output.batches)
        return output

    def update(
        self, output: SchedulerOutput, results: Sequence[Sequence[RequestResult] | Exception]
    ) -> list[EngineOutput]:
        """Take in what the device made of each batch of ``output``, or the exception that it raised instead.

        Outputs come in the order in which schedule() gave them. Results of requests that have ended since, or given
        way, are dropped. (Who gives way comes back two steps later at the earliest, when this has happened.)
        """
        news: list[EngineOutput] = []
        now = time.monotonic()
        for batch, result in zip(output.batches, results, strict=True):
            if isinstance(result, Exception):
                news += self._fail_batch(batch, result)
            elif len(result) != len(batch.requests):
                wrong = f"the model gave {len(result)} results for {len(batch.requests)} requests"
                news += self._fail_batch(batch, AssertionError(wrong))
            elif batch.model in self._lanes:
                self._update_chats(batch, result, now, news)
            else:
                news += self._update_pooled(batch, result)
        self._num_generated_tokens += sum([len(output.new_token_ids) for output in news])
        return news

    @property
    def has_unfinished(self) -> bool:
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        """Chat requests that hold KV blocks."""
        return sum(len(lane.running) for lane in self._lanes.values())

    @property
    def num_waiting(self) -> int:
        """Requests of all kinds that wait to be scheduled."""
        return sum(len(lane.waiting) for lane in self._lanes.values()) + len(self._pooling.waiting)

    def stats(self) -> SchedulerStats:
        """A look at the counters; from another thread the numbers may be of two neighbouring steps."""
        caches = {model: lane.kv_cache for model, lane in self._lanes.items()}
        return SchedulerStats(
            num_running=self.num_running,
            num_waiting=sum(len(lane.waiting) for lane in self._lanes.values()),
            num_waiting_pooling=len(self._pooling.waiting),
            num_steps=self._num_steps,
            num_preemptions=sum(lane.num_preemptions for lane in self._lanes.values()),
            num_prompt_tokens=self._num_prompt_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_pooled_tokens=self._num_pooled_tokens,
            kv_caches={
                model: KVCacheStats(
                    cache.num_blocks, cache.num_free_blocks, cache.num_queried_tokens, cache.num_hit_tokens
                )
                for model, cache in caches.items()
            },
        )

    def check_idle(self) -> None:
        """Assert that with nothing unfinished nothing is held: every KV block is free again."""
        assert not self._requests and self.num_running == self.num_waiting == 0, "requests are left"
        for lane in self._lanes.values():
            lane.kv_cache.check_integrity()
            assert lane.kv_cache.num_free_blocks == lane.kv_cache.num_blocks, "KV blocks are left with nobody"

    def _update_chats(
        self, batch: ModelBatch, results: Sequence[RequestResult], now: float, news: list[EngineOutput]
    ) -> None:
        kv_cache = self._lanes[batch.model].kv_cache
        block_size, running = kv_cache.block_size, RequestStatus.RUNNING
        for item, result in zip(batch.requests, results, strict=True):
            request = item.request
            if request.status is not running:
                continue
            token_ids = result.token_ids
            is_wrong = len(token_ids) != item.samples and not _may_be_several(item, token_ids)
            if result.error is not None or is_wrong or (item.num_prompt_logits and not self._collect(item, result)):
                news.append(self._fail(request, _error_of(request, result)))
                continue
            num_new_tokens = item.num_scheduled_tokens
            num_tokens = item.num_computed_tokens + num_new_tokens
            if num_tokens % block_size < num_new_tokens:  # a block became full
                kv_cache.commit(request, num_tokens)
            if not token_ids:
                continue
            request.num_output_placeholders -= 1
            token_ids = append_tokens(request, token_ids)
            is_first = request.first_token_time is None
            prompt_logprobs = self._note_first_token(request, now) if is_first else None
            if request.status is running:
                news.append(TokensOutput(request.request_id, token_ids, result.logprobs, request.num_cached_tokens))
            else:
                logprobs = None if result.logprobs is None else result.logprobs[: len(token_ids)]
                news.append(self._end(request, request.status, token_ids=token_ids, logprobs=logprobs))
            if prompt_logprobs is not None:
                news[-1].prompt_logprobs = prompt_logprobs

    def _collect(self, item: ScheduledRequest, result: RequestResult) -> bool:
        """Keep the prompt's log probabilities until the first token. Those of a chunk that is computed once more, after
        the request gave way, are known already. False: the model gave another number of them."""
        request, found = item.request, result.prompt_logprobs or []
        if len(found) != item.num_prompt_logits:
            return False
        known = self._prompt_logprobs.setdefault(request.request_id, [])
        known += found[len(known) - item.num_computed_tokens :]
        request.num_prompt_logprobs = len(known)
        return True

    def _note_first_token(self, request: Request, now: float) -> list[TokenLogprobs] | None:
        """What is known of the prompt, if that was asked."""
        request.first_token_time = now
        self._num_prompt_tokens += request.num_prompt_tokens
        params = request.sampling_params
        if params is None or params.prompt_logprobs is None:
            return None
        return self._prompt_logprobs.pop(request.request_id, [])

    def _update_pooled(self, batch: ModelBatch, results: Sequence[RequestResult]) -> list[EngineOutput]:
        news: list[EngineOutput] = []
        for item, result in zip(batch.requests, results, strict=True):
            request = item.request
            if request.status is not RequestStatus.RUNNING:
                continue
            if result.error is not None or result.pooled is None:
                news.append(self._fail(request, _error_of(request, result)))
                continue
            self._num_pooled_tokens += request.num_prompt_tokens
            news.append(self._end(request, RequestStatus.FINISHED_STOPPED, pooled=result.pooled))
        return news

    def _fail_batch(self, batch: ModelBatch, cause: Exception) -> list[EngineOutput]:
        unfinished = [item.request for item in batch.requests if item.request.status is RequestStatus.RUNNING]
        return [self._fail(request, _step_error(request, cause)) for request in unfinished]

    def _fail(self, request: Request, error: CarrelError) -> EngineOutput:
        return self._end(request, RequestStatus.FINISHED_ERROR, error=error)

    def _end(
        self,
        request: Request,
        status: RequestStatus,
        *,
        token_ids: list[int] | None = None,
        logprobs: list[TokenLogprobs] | None = None,
        pooled: FloatArray | None = None,
        error: CarrelError | None = None,
    ) -> EngineOutput:
        """The one way out: give back what the request holds and make its terminal output."""
        request.status = status
        del self._requests[request.request_id]
        self._prompt_logprobs.pop(request.request_id, None)
        if request.is_pooling:
            self._pooling.waiting.discard_finished(request)
        else:
            self._lanes[request.model].drop_finished(request)
        return EngineOutput(
            request.request_id,
            token_ids or [],
            logprobs,
            pooled=pooled,
            finish_reason=request.finish_reason,
            stop_reason=request.stop_reason,
            num_cached_tokens=request.num_cached_tokens,
            error=error,
            metrics=RequestMetrics(
                request.arrival_time, request.first_scheduled_time, request.first_token_time, time.monotonic()
            ),
        )


def _may_be_several(item: ScheduledRequest, token_ids: list[int]) -> bool:
    """Whether several tokens are in order where one was asked for: no step in flight counts on just one."""
    return item.samples and len(token_ids) > 1 and item.request.num_output_placeholders == 1


def _error_of(request: Request, result: RequestResult) -> CarrelError:
    """The error of this request alone, or what is wrong with the shape of its result."""
    if result.error is not None:
        return result.error
    shape = f"{len(result.token_ids)} tokens and {'no' if result.pooled is None else 'a'} vector"
    return _step_error(request, AssertionError(f"the model gave {shape}, which is not what was asked for"))


def _step_error(request: Request, cause: Exception) -> StepError:
    """One for each request, for an exception that is raised in several threads collects all their tracebacks."""
    error = StepError(f"Model {request.model} failed on the batch that held this request: {cause or repr(cause)}")
    error.__cause__ = cause
    return error
