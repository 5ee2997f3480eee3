"""The async face: the same calls for coroutines. Names and meanings are vLLM's.

Knows event loops; everything else is shared with :class:`carrel.LLM`. Tokenizing runs in threads of its own, so that a
long document never stalls the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

from carrel.async_runner import AsyncRunner
from carrel.beam_params import BeamSearchParams
from carrel.beam_search import BeamSearch, request_output
from carrel.call_arguments import INLINE_CHARACTERS, chat_options, num_characters
from carrel.chat_options import Tool, ToolChoice
from carrel.errors import EngineClosedError
from carrel.face import Face, RerankCall
from carrel.hosted_model import HostedModel
from carrel.inputs import Messages, Prompt, Prompts, as_prompts
from carrel.jobs import GenerationJob
from carrel.outputs import (
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    ExtractionOutput,
    PoolingRequestOutput,
    RequestOutput,
    RerankOutput,
    ScoringRequestOutput,
)
from carrel.params import PoolingParams, SamplingParams
from carrel.scoring import ScoringPlan, Truncation

T = TypeVar("T")
TOKENIZER_THREADS = 4  # a chat must not wait until somebody's thousand documents are tokenized


class AsyncLLM(Face):
    """Chat, embeddings and rerank for coroutines, in any number of event loops and threads.

    The arguments are those of :class:`carrel.LLM`; ``AsyncLLM(host=llm.host)`` shares the engine of an ``LLM``.

    >>> async def main():
    ...     async with AsyncLLM() as llm:
    ...         async for output in llm.generate("你好", SamplingParams(max_tokens=4)):
    ...             last = output
    ...         return last.finished
    >>> asyncio.run(main())
    True
    """

    def _start(self) -> None:
        self._runner = AsyncRunner(self.host.loop)
        self._threads = ThreadPoolExecutor(max_workers=TOKENIZER_THREADS, thread_name_prefix="carrel-tokenizer")
        self._running: dict[str, GenerationJob] = {}  # by the request id that callers know

    # -- generation

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        model: str | None = None,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Continue one prompt, step by step, in the output kind that the parameters ask for.

        Leaving the loop, closing the iterator or cancelling the task aborts the request.

        Raises:
            RequestError: the prompt or a parameter is wrong; ContextLengthError if it is too long.
        """
        hosted = self._model(model, "chat")

        def make() -> GenerationJob:
            return self._generation_job(
                hosted, prompt, sampling_params, request_id=request_id, priority=priority, cache_salt=cache_salt
            )

        async with aclosing(self._stream(await self._off_loop(make))) as outputs:
            async for output in outputs:
                yield output

    async def chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        model: str | None = None,
        tools: Sequence[Tool] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answer one conversation, step by step; as :meth:`generate`. The arguments are those of
        :meth:`carrel.LLM.chat`.

        Raises:
            ChatTemplateError: the model has no chat template, or it refused the messages.
        """
        hosted = self._model(model, "chat")
        options = chat_options(
            tools,
            tool_choice,
            parallel_tool_calls,
            chat_template,
            chat_template_kwargs,
            add_generation_prompt,
            continue_final_message,
        )

        def make() -> GenerationJob:
            return self._chat_job(
                hosted,
                messages,
                sampling_params,
                options,
                request_id=request_id,
                priority=priority,
                cache_salt=cache_salt,
            )

        async with aclosing(self._stream(await self._off_loop(make))) as outputs:
            async for output in outputs:
                yield output

    async def beam_search(
        self,
        prompt: Prompt,
        params: BeamSearchParams,
        *,
        model: str | None = None,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The best continuations that a beam search finds: one output, with a completion for each, the best first.

        Closing the iterator or cancelling the task ends the search.

        Raises:
            RequestError: the prompt or a parameter is wrong; ContextLengthError if it is too long.
        """
        hosted = self._model(model, "chat")

        def make() -> BeamSearch:
            return self._beam_search(
                hosted, prompt, params, request_id=request_id, priority=priority, cache_salt=cache_salt
            )

        yield await self._run_search(await self._off_loop(make))

    def abort(self, request_id: str) -> None:
        """End a generation; its reader gets a last output with finish_reason "abort". Unknown ids are passed over."""
        job = self._running.get(request_id)
        if job is not None:
            self.host.loop.abort([request.request_id for request in job.requests])

    # -- vectors and scores

    async def embed(
        self,
        prompts: Prompts,
        pooling_params: PoolingParams | None = None,
        *,
        model: str | None = None,
        request_id: str | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """Vectors [dim] in fp32, in the order of the inputs; as :meth:`carrel.LLM.embed`."""
        hosted, items = self._model(model, "embedding"), as_prompts(prompts)
        jobs = await self._off_loop(
            lambda: list(self._embedding_jobs(hosted, items, pooling_params, request_id)), num_characters(items)
        )
        return await self._runner.run(jobs)

    async def classify(
        self,
        prompts: Prompts,
        pooling_params: PoolingParams | None = None,
        *,
        model: str | None = None,
        request_id: str | None = None,
    ) -> list[ClassificationRequestOutput]:
        """The probability of each label, in the order of the inputs; as :meth:`carrel.LLM.classify`."""
        hosted, items = self._model(model, "classify"), as_prompts(prompts)
        jobs = await self._off_loop(lambda: list(self._classification_jobs(hosted, items, pooling_params, request_id)))
        return await self._runner.run(jobs)

    async def encode(
        self,
        prompts: Prompts,
        pooling_params: PoolingParams | None = None,
        *,
        model: str | None = None,
        request_id: str | None = None,
    ) -> list[PoolingRequestOutput]:
        """Raw vectors or logits, in the order of the inputs; as :meth:`carrel.LLM.encode`."""
        hosted, items = self._model(model, "pooling"), as_prompts(prompts)
        jobs = await self._off_loop(lambda: list(self._pooling_jobs(hosted, items, pooling_params, request_id)))
        return await self._runner.run(jobs)

    async def score(
        self,
        text_1: str | Sequence[str],
        text_2: str | Sequence[str],
        *,
        model: str | None = None,
        truncate_prompt_tokens: int | None = None,
        request_id: str | None = None,
    ) -> list[ScoringRequestOutput]:
        """How well each pair fits, 0 … 1; as :meth:`carrel.LLM.score`."""
        hosted: HostedModel = self._model(model, "rerank")
        truncation = Truncation(whole=truncate_prompt_tokens)
        size = num_characters(text_1) + num_characters(text_2)
        plan = await self._off_loop(lambda: self._score_plan(hosted, text_1, text_2, truncation, request_id), size)
        return await self._run_plan(plan)

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        model: str | None = None,
        truncate_prompt_tokens: int | None = -1,
        max_tokens_per_doc: int | None = None,
        request_id: str | None = None,
    ) -> RerankOutput:
        """Documents by descending relevance; as :meth:`carrel.LLM.rerank`."""
        hosted = self._model(model, "rerank")
        truncation = Truncation(whole=truncate_prompt_tokens, document=max_tokens_per_doc)
        call = await self._off_loop(
            lambda: RerankCall(self.host, hosted, query, documents, top_n, truncation, request_id),
            num_characters(query) * len(documents) + num_characters(documents),
        )
        return call.ranked(await self._run_plan(call.plan))

    async def extract(
        self,
        question: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        max_span_tokens: int = 40,
        truncate_prompt_tokens: int | None = -1,
        max_tokens_per_doc: int | None = None,
        request_id: str | None = None,
    ) -> ExtractionOutput:
        """The piece of each document that answers the question best; as :meth:`carrel.LLM.extract`."""
        hosted = self._model(model, "extract")
        truncation = Truncation(whole=truncate_prompt_tokens, document=max_tokens_per_doc)
        plan = await self._off_loop(
            lambda: self._extraction_plan(hosted, question, documents, max_span_tokens, truncation, request_id),
            num_characters(question) * len(documents) + num_characters(documents),
        )
        return plan.output(await self._runner.run(plan.jobs))

    # -- life

    def close(self) -> None:
        """Let the engine go; it ends with its last user. Idempotent; every later call raises EngineClosedError."""
        self._threads.shutdown(wait=False)
        self._close()

    async def aclose(self) -> None:
        """:meth:`close` without stalling the event loop."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- running jobs

    async def _stream(self, job: GenerationJob) -> AsyncGenerator[RequestOutput, None]:
        self._running[job.request_id] = job
        try:
            async with aclosing(self._runner.stream(job)) as outputs:
                async for output in outputs:
                    yield output
        finally:
            self._running.pop(job.request_id, None)

    async def _run_search(self, search: BeamSearch) -> RequestOutput:
        try:
            while jobs := search.jobs():
                search.advance(jobs, await self._runner.run(jobs))
            return request_output(search, search.finish())
        finally:
            search.abandon()

    async def _run_plan(self, plan: ScoringPlan) -> list[ScoringRequestOutput]:
        return plan.outputs(await self._runner.run(plan.jobs))

    async def _off_loop(self, make: Callable[[], T], size: int = INLINE_CHARACTERS + 1) -> T:
        """What ``make`` gives, made in a thread unless there are only ``size`` characters to tokenize."""
        if size <= INLINE_CHARACTERS:
            return make()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, make)
        except RuntimeError as error:  # the pool was shut down between the check and here
            raise EngineClosedError("This AsyncLLM is closed. Open a new one.") from error
        return await future
