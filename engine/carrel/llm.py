"""The sync face: calls that return when the work is done, and iterators. Names and meanings are vLLM's.

Knows the caller's thread; everything else is shared with :class:`carrel.AsyncLLM`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

from carrel.beam_params import BeamSearchParams
from carrel.beam_search import beam_search_output
from carrel.call_arguments import chat_options, per_prompt, with_kind
from carrel.chat_options import Tool, ToolChoice
from carrel.face import Face, RerankCall
from carrel.hosted_model import HostedModel
from carrel.inputs import Messages, Prompt, Prompts, as_conversations, as_prompts
from carrel.jobs import Job
from carrel.outputs import (
    BeamSearchOutput,
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    ExtractionOutput,
    PoolingRequestOutput,
    RequestOutput,
    RerankOutput,
    ScoringRequestOutput,
)
from carrel.params import PoolingParams, RequestOutputKind, SamplingParams
from carrel.scoring import ScoringPlan, Truncation
from carrel.sync_runner import run_jobs, stream_job

T = TypeVar("T")
LONG_WORK = 1.0  # seconds: shorter work shows no progress bar


class LLM(Face):
    """Chat, embeddings and rerank in this process.

    ``model`` is a folder, a Hugging Face name or ``starter/…``, of any task: its files decide. ``embedding_model`` and
    ``reranker_model`` are hosted beside it, under one scheduler. No model at all: the three bundled ones. LLMs of the
    same models and options share one engine, which ends with the last of them; ``host=`` shares one that is there
    and never closes it. Any number of threads may use one LLM. How a chat model writes tool calls and thoughts is read
    from its chat template; ``tool_call_parser`` and ``reasoning_parser`` overrule that ("none": it writes none).

    >>> with LLM() as llm:
    ...     vectors = llm.embed(["你好", "hello"])
    ...     best = llm.rerank("capital of France", ["Berlin is big.", "The capital of France is Paris."], top_n=1)
    >>> vectors[0].outputs.hidden_size, best.results[0].index
    (384, 1)

    Raises:
        ModelError: a model cannot be found, read or served.
        OutOfMemoryError: the models do not fit the machine.
    """

    # -- generation

    def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        model: str | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continue one prompt or many: texts, or lists of token ids. Outputs are in the order of the prompts.

        Raises:
            RequestError: a prompt or parameter is wrong; ContextLengthError if it is too long.
        """
        hosted, items = self._model(model, "chat"), as_prompts(prompts)
        params = per_prompt(sampling_params, len(items))
        jobs = [
            self._generation_job(hosted, prompt, with_kind(param, RequestOutputKind.FINAL_ONLY))
            for prompt, param in zip(items, params, strict=True)
        ]
        return self._run(jobs, len(jobs), "prompts", use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        model: str | None = None,
        tools: Sequence[Tool] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer one conversation or many: lists of ``{"role", "content"}``.

        ``output.outputs[0].message`` is the answer taken apart: ``content``, ``reasoning``, ``tool_calls``. ``tools``
        are OpenAI's. ``tool_choice`` "auto" lets the model choose, "required" or a tool's name forces calls whose
        arguments follow the schema, "none" shows the model the tools and takes its answer as text.
        ``parallel_tool_calls=False``: one call at most.

        >>> schema = {"type": "object", "properties": {"city": {"enum": ["北京", "Berlin"]}}, "required": ["city"]}
        >>> weather = {"type": "function", "function": {"name": "weather", "parameters": schema}}
        >>> with LLM() as llm:
        ...     chat = [{"role": "user", "content": "Is it raining in Berlin?"}]
        ...     (output,) = llm.chat(chat, SamplingParams(max_tokens=200), tools=[weather], tool_choice="required")
        >>> output.outputs[0].message.tool_calls[0].name
        'weather'

        Raises:
            ChatTemplateError: the model has no chat template, or it refused the messages.
            RequestError: the model may choose to call tools, and how it writes calls is not known.
        """
        hosted, items = self._model(model, "chat"), as_conversations(messages)
        options = chat_options(
            tools,
            tool_choice,
            parallel_tool_calls,
            chat_template,
            chat_template_kwargs,
            add_generation_prompt,
            continue_final_message,
        )
        jobs = [
            self._chat_job(hosted, item, with_kind(param, RequestOutputKind.FINAL_ONLY), options)
            for item, param in zip(items, per_prompt(sampling_params, len(items)), strict=True)
        ]
        return self._run(jobs, len(jobs), "chats", use_tqdm)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, model: str | None = None
    ) -> Iterator[RequestOutput]:
        """Continue one prompt, step by step, in the output kind that the parameters ask for (DELTA: only what is new).

        The request is checked and submitted by this call; closing the iterator aborts it.
        """
        return stream_job(self.host.loop, self._generation_job(self._model(model, "chat"), prompt, sampling_params))

    def stream_chat(
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
    ) -> Iterator[RequestOutput]:
        """Answer one conversation, step by step; as :meth:`stream`. In the output kind DELTA ``outputs[0].delta`` is
        what is new of the message: of a call its id and name first, then its arguments in pieces that concatenate."""
        options = chat_options(
            tools,
            tool_choice,
            parallel_tool_calls,
            chat_template,
            chat_template_kwargs,
            add_generation_prompt,
            continue_final_message,
        )
        job = self._chat_job(self._model(model, "chat"), messages, sampling_params, options)
        return stream_job(self.host.loop, job)

    def beam_search(
        self, prompts: Prompts, params: BeamSearchParams, *, model: str | None = None, use_tqdm: bool = False
    ) -> list[BeamSearchOutput]:
        """The ``beam_width`` best continuations of one prompt or many that a beam search finds, the best first.

        Raises:
            RequestError: a prompt or parameter is wrong; ContextLengthError if it is too long.
        """
        hosted = self._model(model, "chat")
        searches = [self._beam_search(hosted, prompt, params) for prompt in as_prompts(prompts)]
        try:
            while rounds := [(search, jobs) for search in searches if (jobs := search.jobs())]:
                found = iter(self._run([job for _, jobs in rounds for job in jobs], len(rounds), "beams", use_tqdm))
                for search, jobs in rounds:
                    search.advance(jobs, [next(found) for _ in jobs])
            return [beam_search_output(search, search.finish()) for search in searches]
        finally:
            for search in searches:
                search.abandon()

    # -- vectors and scores

    def embed(
        self,
        prompts: Prompts,
        pooling_params: PoolingParams | None = None,
        *,
        model: str | None = None,
        use_tqdm: bool = True,
    ) -> list[EmbeddingRequestOutput]:
        """Vectors [dim] in fp32, in the order of the inputs.

        Raises:
            ContextLengthError: an input is too long, and ``truncate_prompt_tokens`` does not say to cut it.
        """
        hosted: HostedModel = self._model(model, "embedding")
        items = as_prompts(prompts)
        jobs = self._embedding_jobs(hosted, items, pooling_params)
        return self._run(jobs, len(items), "inputs", use_tqdm)

    def classify(
        self,
        prompts: Prompts,
        pooling_params: PoolingParams | None = None,
        *,
        model: str | None = None,
        use_tqdm: bool = True,
    ) -> list[ClassificationRequestOutput]:
        """The probability of each label, in the order of the inputs. ``host.get(model, "classify").labels`` names them.

        Raises:
            UnsupportedTaskError: no model with a classification head is hosted.
        """
        hosted, items = self._model(model, "classify"), as_prompts(prompts)
        return self._run(self._classification_jobs(hosted, items, pooling_params), len(items), "inputs", use_tqdm)

    def encode(
        self,
        prompts: Prompts,
        pooling_params: PoolingParams | None = None,
        *,
        model: str | None = None,
        use_tqdm: bool = True,
    ) -> list[PoolingRequestOutput]:
        """What the model gives for each input, raw: an embedder's vector, not normalised unless ``normalize=True``; a
        classifier's or reranker's logits."""
        hosted, items = self._model(model, "pooling"), as_prompts(prompts)
        return self._run(self._pooling_jobs(hosted, items, pooling_params), len(items), "inputs", use_tqdm)

    def score(
        self,
        text_1: str | Sequence[str],
        text_2: str | Sequence[str],
        *,
        model: str | None = None,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
    ) -> list[ScoringRequestOutput]:
        """How well each pair fits, 0 … 1: one text with n, or n with n. An embedding model gives the cosine."""
        hosted = self._model(model, "rerank")
        plan = self._score_plan(hosted, text_1, text_2, Truncation(whole=truncate_prompt_tokens))
        return self._run_plan(plan, use_tqdm)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        model: str | None = None,
        truncate_prompt_tokens: int | None = -1,
        max_tokens_per_doc: int | None = None,
        use_tqdm: bool = False,
    ) -> RerankOutput:
        """Documents by descending relevance. The query is kept whole; long documents are cut.

        Raises:
            RequestError: there is no document, or the query leaves no room for one.
        """
        truncation = Truncation(whole=truncate_prompt_tokens, document=max_tokens_per_doc)
        call = RerankCall(self.host, self._model(model, "rerank"), query, documents, top_n, truncation, None)
        return call.ranked(self._run_plan(call.plan, use_tqdm))

    def extract(
        self,
        question: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        max_span_tokens: int = 40,
        truncate_prompt_tokens: int | None = -1,
        max_tokens_per_doc: int | None = None,
        use_tqdm: bool = False,
    ) -> ExtractionOutput:
        """The piece of each document that answers the question best, and how relevant the document is, in their order.

        ``document[result.start:result.end]`` is ``result.text``, at most ``max_span_tokens`` tokens. One forward pass
        gives both; long documents are cut as :meth:`rerank` cuts them, and what was cut off is not read.

        Raises:
            UnsupportedTaskError: no reranker with a head for spans (``qa_outputs``) is hosted.
            RequestError: there is no document, or the question leaves no room for one.
        """
        hosted = self._model(model, "extract")
        truncation = Truncation(whole=truncate_prompt_tokens, document=max_tokens_per_doc)
        plan = self._extraction_plan(hosted, question, documents, max_span_tokens, truncation)
        return plan.output(self._run(plan.jobs, len(plan.jobs), "texts", use_tqdm))

    # -- life

    def close(self) -> None:
        """Let the engine go; it ends with its last user. Idempotent; every later call raises EngineClosedError."""
        self._close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_plan(self, plan: ScoringPlan, use_tqdm: bool) -> list[ScoringRequestOutput]:
        return plan.outputs(self._run(plan.jobs, len(plan.jobs), "texts", use_tqdm))

    def _run(self, jobs: Iterable[Job[T]], total: int, unit: str, use_tqdm: bool) -> list[T]:
        with tqdm(total=total, unit=f" {unit}", disable=not use_tqdm, delay=LONG_WORK) as bar:
            return run_jobs(self.host.loop, jobs, on_finished=bar.update)
