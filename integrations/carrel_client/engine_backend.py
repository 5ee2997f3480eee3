"""The way in through an engine of this process. Knows carrel's LLM and AsyncLLM; knows no HTTP and no framework."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, cast

from carrel import host_registry
from carrel.async_llm import AsyncLLM
from carrel.config import EngineConfig, ModelSpec, Task
from carrel.inputs import tokenize_chat
from carrel.llm import LLM
from carrel.outputs import (
    ChatMessage,
    CompletionOutput,
    EmbeddingRequestOutput,
    MessageDelta,
    RequestOutput,
    RerankResult,
)
from carrel.params import PoolingParams, RequestOutputKind, SamplingParams
from carrel.parsers.message_fold import MessageFold

from carrel_client.backend import EmbedOptions, ModelInfo, Piece, Reply, RerankOptions, TextRequest, Usage
from carrel_client.sampling_fields import sampling_params

if TYPE_CHECKING:
    from carrel.host import EngineHost


class EngineBackend:
    """Sync calls go through ``LLM``, async ones through ``AsyncLLM``, both on one host."""

    def __init__(self, host: EngineHost, release: Callable[[], None]) -> None:
        self._host = host
        self._release = release
        self._llm = LLM(host=host)
        self._async_llm = AsyncLLM(host=host)

    @classmethod
    def shared(cls, host: EngineHost) -> EngineBackend:
        """On a host that belongs to somebody else: ``close`` leaves it open."""
        return cls(host, release=lambda: None)

    @classmethod
    def opened(cls, model: str, config: EngineConfig) -> EngineBackend:
        """On a host out of the registry, which frees it after the last ``close``."""
        lease = host_registry.acquire([ModelSpec(name=model)], config)
        return cls(lease, release=lambda: host_registry.release(lease))

    def close(self) -> None:
        self._llm.close()
        self._async_llm.close()
        self._release()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)  # the last user of an engine waits for its thread to end

    def info(self, task: Task, model: str | None) -> ModelInfo:
        hosted = self._host.get(model, task)
        calls_tools = hosted.tool_call_parser not in (None, "none")
        return ModelInfo(model or hosted.names[0], hosted.max_model_len, hosted.chat_template is not None, calls_tools)

    async def ainfo(self, task: Task, model: str | None) -> ModelInfo:
        return self.info(task, model)

    def tokenize(self, request: TextRequest) -> list[int]:
        hosted = self._host.get(request.model, "chat")
        if isinstance(request.prompt, str):
            return hosted.tokenizer.encode(request.prompt, add_special_tokens=False)
        return tokenize_chat(hosted, request.prompt, request.chat).token_ids

    # Text

    def generate(self, request: TextRequest) -> Reply:
        params = self._params(request, RequestOutputKind.FINAL_ONLY)
        if isinstance(request.prompt, str):
            outputs = self._llm.generate(request.prompt, params, model=request.model, use_tqdm=False)
        else:
            outputs = self._llm.chat(use_tqdm=False, **self._chat(request, params))
        return self._end(request, outputs)

    async def agenerate(self, request: TextRequest) -> Reply:
        params = self._params(request, RequestOutputKind.FINAL_ONLY)
        async with aclosing(self._agenerate(request, params)) as stream:
            return self._end(request, [output async for output in stream])

    def stream(self, request: TextRequest) -> Generator[Piece, None, None]:
        params = self._params(request, RequestOutputKind.DELTA)
        if isinstance(request.prompt, str):
            stream = self._llm.stream(request.prompt, params, model=request.model)
        else:
            stream = self._llm.stream_chat(**self._chat(request, params))
        outputs = []
        with closing(cast("Generator[RequestOutput, None, None]", stream)):  # leaving it aborts the request
            for output in stream:
                outputs.append(output)
                if news := _news(output.outputs[0]):
                    yield _piece(news)
        yield Piece("", self._end(request, outputs))

    async def astream(self, request: TextRequest) -> AsyncGenerator[Piece, None]:
        params = self._params(request, RequestOutputKind.DELTA)
        outputs = []
        async with aclosing(self._agenerate(request, params)) as stream:  # leaving it aborts the request
            async for output in stream:
                outputs.append(output)
                if news := _news(output.outputs[0]):
                    yield _piece(news)
        yield Piece("", self._end(request, outputs))

    def _agenerate(self, request: TextRequest, params: SamplingParams) -> AsyncGenerator[RequestOutput, None]:
        if isinstance(request.prompt, str):
            return self._async_llm.generate(request.prompt, params, model=request.model)
        return self._async_llm.chat(**self._chat(request, params))

    @staticmethod
    def _params(request: TextRequest, kind: RequestOutputKind) -> SamplingParams:
        return sampling_params(request.options, output_kind=kind)

    @staticmethod
    def _chat(request: TextRequest, params: SamplingParams) -> dict[str, Any]:
        return {
            "messages": request.prompt,
            "sampling_params": params,
            "model": request.model,
            "tools": request.chat.tools,
            "tool_choice": request.chat.tool_choice,
            "parallel_tool_calls": request.chat.parallel_tool_calls,
            "chat_template_kwargs": request.chat.chat_template_kwargs,
        }

    def _end(self, request: TextRequest, outputs: Sequence[RequestOutput]) -> Reply:
        """The whole answer out of one final output, or out of the deltas of a stream."""
        completions = [output.outputs[0] for output in outputs]
        usage = Usage(
            prompt_tokens=len(outputs[-1].prompt_token_ids),
            completion_tokens=sum(len(completion.token_ids) for completion in completions),
            cached_tokens=max(output.num_cached_tokens for output in outputs),
        )
        name = self.info("chat", request.model).name
        return Reply.of(_message(completions), completions[-1].finish_reason, usage, name)

    # Vectors and rankings

    def embed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]:
        return _vectors(self._llm.embed(list(texts), _pooling(options), model=options.model, use_tqdm=False))

    async def aembed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]:
        return _vectors(await self._async_llm.embed(list(texts), _pooling(options), model=options.model))

    def rerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]:
        return self._llm.rerank(query, list(documents), top_n=options.top_n, model=options.model).results

    async def arerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]:
        output = await self._async_llm.rerank(query, list(documents), top_n=options.top_n, model=options.model)
        return output.results


def _news(completion: CompletionOutput) -> MessageDelta:
    """What is new; a text that no chat template asked for has no thoughts and no calls."""
    return MessageDelta(completion.text) if completion.delta is None else completion.delta


def _piece(news: MessageDelta) -> Piece:
    return Piece(news.content, reasoning=news.reasoning, tool_calls=tuple(news.tool_calls))


def _message(completions: Sequence[CompletionOutput]) -> ChatMessage:
    """The message of one final output, or the sum of a stream's deltas."""
    if completions[-1].message is not None:
        return completions[-1].message
    fold = MessageFold()
    for completion in completions:
        fold.add(_news(completion))
    return fold.message()


def _pooling(options: EmbedOptions) -> PoolingParams:
    return PoolingParams(
        input_type=options.input_type,
        dimensions=options.dimensions,
        truncate_prompt_tokens=-1 if options.truncate else None,
    )


def _vectors(outputs: Sequence[EmbeddingRequestOutput]) -> list[list[float]]:
    return [output.outputs.embedding.tolist() for output in outputs]
