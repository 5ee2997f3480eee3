"""What the sync and the async face have in common: opening a host, and making jobs out of calls. Runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from carrel import host_registry
from carrel.beam_params import BeamSearchParams
from carrel.beam_search import BeamSearch
from carrel.call_arguments import model_specs, new_request_id
from carrel.chat_options import ChatOptions
from carrel.classification import ClassificationJob, RawPoolingJob, classification_job, raw_pooling_job
from carrel.config import Ability, DType, EngineConfig, ModelSpec, Quantization, Task
from carrel.errors import ContextLengthError, EngineClosedError, InvalidParamsError
from carrel.extraction import ExtractionPlan
from carrel.host import EngineHost
from carrel.hosted_model import HostedModel
from carrel.inputs import Messages, Prompt, tokenize_chat, tokenize_prompt
from carrel.jobs import EmbeddingJob, GenerationJob
from carrel.outputs import RerankOutput, ScoringRequestOutput
from carrel.params import PoolingParams, SamplingParams
from carrel.parsers import answer_format
from carrel.scoring import ScoringPlan, Truncation, check_rerank, embedding_job, make_pairs, plan_scoring, ranked
from carrel.starter import STARTERS
from carrel.tokenizer import Tokenizer

J = TypeVar("J")


class Face:
    """Opens or shares a host. Not for use by itself: see :class:`carrel.LLM` and :class:`carrel.AsyncLLM`."""

    def __init__(
        self,
        model: str | None = None,
        *,
        embedding_model: str | None = None,
        reranker_model: str | None = None,
        host: EngineHost | None = None,
        device: str = "auto",
        tensor_parallel_size: int = 1,
        dtype: DType = "auto",
        quantization: Quantization | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        kv_cache_memory_bytes: int | None = None,
        gpu_memory_utilization: float = 0.9,
        enable_prefix_caching: bool = True,
        enforce_eager: bool = False,
        overlap_scheduling: bool | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
        block_size: int = 16,
        chat_template: str | None = None,
        tool_call_parser: str | None = None,
        reasoning_parser: str | None = None,
    ) -> None:
        config = EngineConfig(
            device=device,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            quantization=quantization,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_memory_bytes=kv_cache_memory_bytes,
            gpu_memory_utilization=gpu_memory_utilization,
            enable_prefix_caching=enable_prefix_caching,
            enforce_eager=enforce_eager,
            overlap_scheduling=overlap_scheduling,
            trust_remote_code=trust_remote_code,
            seed=seed,
            block_size=block_size,
        )
        specs = model_specs(model, embedding_model, reranker_model, chat_template, tool_call_parser, reasoning_parser)
        self._closed = False
        self._owns_host = host is None
        if host is not None:
            _refuse_options_beside_host(specs, config)
            host.check_open()
            self.host = host
        else:
            self.host = host_registry.acquire(specs or [ModelSpec(name=name) for name in STARTERS], config)
        self._start()

    def _start(self) -> None:
        """What a face needs beside the host."""

    def get_tokenizer(self, model: str | None = None, task: Task = "chat") -> Tokenizer:
        """The tokenizer of a hosted model."""
        return self._model(model, task).tokenizer

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._owns_host:
            host_registry.release(self.host)

    def _model(self, name: str | None, task: Ability) -> HostedModel:
        if self._closed:
            raise EngineClosedError(f"This {type(self).__name__} is closed. Open a new one.")
        return self.host.get(name, task)

    # -- calls into jobs

    def _generation_job(
        self,
        model: HostedModel,
        prompt: Prompt,
        params: SamplingParams | None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> GenerationJob:
        return GenerationJob(
            self.host,
            model,
            tokenize_prompt(model, prompt),
            params or SamplingParams(),
            request_id=request_id or new_request_id("gen"),
            priority=priority,
            cache_salt=cache_salt,
        )

    def _chat_job(
        self,
        model: HostedModel,
        messages: Messages,
        params: SamplingParams | None,
        options: ChatOptions,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> GenerationJob:
        prompt = tokenize_chat(model, messages, options)
        return GenerationJob(
            self.host,
            model,
            prompt,
            params or SamplingParams(),
            request_id=request_id or new_request_id("chat"),
            priority=priority,
            cache_salt=cache_salt,
            answer=answer_format(model, options, prompt.text or ""),
        )

    def _embedding_jobs(
        self, model: HostedModel, prompts: Sequence[Prompt], params: PoolingParams | None, request_id: str | None = None
    ) -> Iterator[EmbeddingJob]:
        return self._input_jobs(embedding_job, model, prompts, params, request_id or new_request_id("embed"))

    def _classification_jobs(
        self, model: HostedModel, prompts: Sequence[Prompt], params: PoolingParams | None, request_id: str | None = None
    ) -> Iterator[ClassificationJob]:
        return self._input_jobs(classification_job, model, prompts, params, request_id or new_request_id("classify"))

    def _pooling_jobs(
        self, model: HostedModel, prompts: Sequence[Prompt], params: PoolingParams | None, request_id: str | None = None
    ) -> Iterator[RawPoolingJob]:
        return self._input_jobs(raw_pooling_job, model, prompts, params, request_id or new_request_id("pool"))

    def _input_jobs(
        self,
        make: Callable[..., J],
        model: HostedModel,
        prompts: Sequence[Prompt],
        params: PoolingParams | None,
        request_id: str,
    ) -> Iterator[J]:
        """A job for each input, made when it is its turn; an error says which input it is about."""
        for i, prompt in enumerate(prompts):
            try:
                job = make(self.host, model, prompt, params or PoolingParams(), request_id=f"{request_id}-{i}")
            except ContextLengthError as error:
                raise (error if len(prompts) == 1 else error.of_input(i)) from None
            yield job

    def _beam_search(
        self,
        model: HostedModel,
        prompt: Prompt,
        params: BeamSearchParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> BeamSearch:
        tokens = tokenize_prompt(model, prompt)
        return BeamSearch(
            self.host,
            model,
            tokens,
            params,
            request_id=request_id or new_request_id("beam"),
            priority=priority,
            cache_salt=cache_salt,
        )

    def _score_plan(
        self,
        model: HostedModel,
        text_1: str | Sequence[str],
        text_2: str | Sequence[str],
        truncation: Truncation,
        request_id: str | None = None,
    ) -> ScoringPlan:
        pairs = make_pairs(text_1, text_2)
        return plan_scoring(self.host, model, pairs, truncation, request_id=request_id or new_request_id("score"))

    def _extraction_plan(
        self,
        model: HostedModel,
        question: str,
        documents: Sequence[str],
        max_span_tokens: int,
        truncation: Truncation,
        request_id: str | None = None,
    ) -> ExtractionPlan:
        request_id = request_id or new_request_id("extract")
        return ExtractionPlan(self.host, model, question, documents, max_span_tokens, truncation, request_id=request_id)


class RerankCall:
    """One rerank: checked first, then planned, then ranked."""

    def __init__(
        self,
        host: EngineHost,
        model: HostedModel,
        query: str,
        documents: Sequence[str],
        top_n: int | None,
        truncation: Truncation,
        request_id: str | None,
    ) -> None:
        self._model, self._top_n = model, top_n
        self._request_id = request_id or new_request_id("rerank")
        self._documents = check_rerank(documents, top_n)
        pairs = make_pairs(query, self._documents)
        self.plan = plan_scoring(host, model, pairs, truncation, request_id=self._request_id)

    def ranked(self, scored: Sequence[ScoringRequestOutput]) -> RerankOutput:
        return ranked(self._model, self._documents, scored, self._top_n, request_id=self._request_id)


def _refuse_options_beside_host(specs: Sequence[ModelSpec], config: EngineConfig) -> None:
    """Options of a host that is there already would be ignored in silence."""
    if specs or config != EngineConfig():
        raise InvalidParamsError("host= brings its own models and options; give nothing else beside it.", param="host")
