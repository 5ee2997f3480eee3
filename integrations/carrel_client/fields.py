"""Fields that every adapter has, as pydantic models to inherit from: the three ways in, and the sampling options.

Both frameworks build on pydantic, so one set of fields serves both. An unknown keyword argument is an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Set
from contextlib import aclosing
from types import TracebackType
from typing import Any, ClassVar, Self

from carrel.config import EngineConfig, Task
from carrel.errors import InvalidParamsError
from carrel.outputs import RerankResult
from carrel.params import SamplingParams
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from carrel_client.backend import (
    Backend,
    EmbedOptions,
    InputType,
    ModelInfo,
    Piece,
    Prompt,
    Reply,
    RerankOptions,
    TextRequest,
)
from carrel_client.connection import Connection
from carrel_client.errors import NotAvailableError


class ConnectionFields(BaseModel):
    """The three ways in.

    - ``model=…`` alone opens that model in this process on first use. Adapters with the same model and the same
      ``engine_options`` share one engine; the last ``close()`` frees it.
    - ``llm=…`` uses the engine of a ``carrel.LLM`` or ``carrel.AsyncLLM`` and never closes it.
    - ``base_url=…`` asks a carrel server (``http://127.0.0.1:8000``, with or without ``/v1``).

    Beside ``llm`` and ``base_url``, ``model`` names one of their models; without it their only one is used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = None
    llm: Any = Field(default=None, exclude=True, repr=False)
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True)
    timeout: float | None = None  # seconds for one answer over HTTP; None: 600
    max_retries: int | None = None  # over HTTP, when the server cannot be reached or is busy; None: 2
    engine_options: dict[str, Any] = Field(default_factory=dict)  # carrel.EngineConfig's, for a model opened here

    task: ClassVar[Task]
    _connection: Connection = PrivateAttr()

    @model_validator(mode="after")
    def _make_connection(self) -> Self:
        self._check_way_in()
        self._connection = Connection(self._open_backend)
        return self

    def _check_way_in(self) -> None:
        if self.llm is not None and self.base_url is not None:
            raise ValueError("give llm= or base_url=, not both: one is in this process, the other over HTTP.")
        if self.llm is None and self.base_url is None and self.model is None:
            raise ValueError("give one of model= (opened here), llm= (shared) or base_url= (a carrel server).")
        if self.llm is not None and not hasattr(self.llm, "host"):
            raise ValueError(f"llm= must be a carrel.LLM or carrel.AsyncLLM, got {type(self.llm).__name__}.")
        self._refuse_misplaced(("api_key", "timeout", "max_retries"), self.base_url is not None, "base_url")
        self._refuse_misplaced(("engine_options",), self.llm is None and self.base_url is None, "model")
        EngineConfig(**self.engine_options)

    def _refuse_misplaced(self, names: tuple[str, ...], allowed: bool, way_in: str) -> None:
        """An option of another way in would be read and ignored: refuse it."""
        misplaced = [name for name in names if getattr(self, name)]
        if misplaced and not allowed:
            raise ValueError(f"{', '.join(misplaced)} has a meaning only with {way_in}=; leave it out.")

    def _open_backend(self) -> Backend:
        if self.base_url is not None:
            from carrel_client.server_backend import ServerBackend

            key = self.api_key.get_secret_value() if self.api_key else None
            return ServerBackend(self.base_url, api_key=key, timeout=self.timeout, max_retries=self.max_retries)
        from carrel_client.engine_backend import EngineBackend  # here: it loads torch, which HTTP does not need

        if self.llm is not None:
            return EngineBackend.shared(self.llm.host)
        assert self.model is not None, "checked when the adapter was made"
        return EngineBackend.opened(self.model, EngineConfig(**self.engine_options))

    def close(self) -> None:
        """Gives back what this adapter opened; an engine given as ``llm=`` stays open. May be called again."""
        self._connection.close()

    async def aclose(self) -> None:
        """As ``close``, and closes the HTTP connections of this event loop."""
        await self._connection.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


class SamplingFields(BaseModel):
    """Sampling options with the names and meanings of ``carrel.SamplingParams``; None leaves the engine's default."""

    temperature: float | None = None
    max_tokens: int | None = None  # None: up to the context length
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        self.sampling_options({})
        return self

    def sampling_options(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are set, those of one call over the adapter's own.

        Raises:
            InvalidParamsError: a value is out of range, or carrel has no such option.
            NotAvailableError: tools and grammars, which this carrel does not have yet.
        """
        names = SamplingFields.model_fields.keys()
        refuse_unknown(overrides.keys() - names, known=names)
        options = {name: getattr(self, name) for name in names}
        options.update({name: value for name, value in overrides.items() if value is not None})
        options = {name: value for name, value in options.items() if value not in (None, [])}
        SamplingParams(**{"max_tokens": None, **options})  # refuses values out of range, over HTTP too
        return options


TOOLS = frozenset({"tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"})
GRAMMARS = frozenset({"response_format", "guided_json", "guided_regex", "structured_outputs"})


def refuse_unknown(unknown: Set[str], *, known: Iterable[str]) -> None:
    if unknown & TOOLS:
        raise NotAvailableError("This carrel does not call tools yet: leave tools out and ask for text.")
    if unknown & GRAMMARS:
        raise NotAvailableError(
            "This carrel does not hold answers to a schema yet: ask for the format in the prompt and parse the text."
        )
    if unknown:
        raise InvalidParamsError(f"Unknown option {', '.join(sorted(unknown))}; there are {', '.join(known)}.")


class ChatFields(ConnectionFields, SamplingFields):
    """A chat model by one of the three ways in."""

    task: ClassVar[Task] = "chat"
    chat_template_kwargs: dict[str, Any] | None = None  # for the model's template, e.g. {"enable_thinking": False}

    def text_request(self, prompt: Prompt, overrides: Mapping[str, Any]) -> TextRequest:
        """One request; ``overrides`` are this call's options, ``model`` and ``chat_template_kwargs`` too."""
        options = dict(overrides)
        model = options.pop("model", None) or self.model
        template = options.pop("chat_template_kwargs", None) or self.chat_template_kwargs
        return TextRequest(prompt, self.sampling_options(options), model, template)

    def reply(self, request: TextRequest) -> Reply:
        """The whole answer."""
        return self._connection.open().generate(request)

    async def areply(self, request: TextRequest) -> Reply:
        """As ``reply``; cancelling it aborts the request."""
        return await (await self._connection.aopen()).agenerate(request)

    def pieces(self, request: TextRequest) -> Generator[Piece, None, None]:
        """The answer as it is written; closing the iterator aborts the request."""
        return self._connection.open().stream(request)

    async def apieces(self, request: TextRequest) -> AsyncGenerator[Piece, None]:
        """As ``pieces``."""
        async with aclosing((await self._connection.aopen()).astream(request)) as stream:
            async for piece in stream:
                yield piece

    def model_info(self) -> ModelInfo:
        """Name and context length of the chat model; opens it."""
        return self._connection.open().info(self.task, self.model)

    async def amodel_info(self) -> ModelInfo:
        """As ``model_info``; the event loop goes on while the model is read."""
        return await (await self._connection.aopen()).ainfo(self.task, self.model)

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Token ids of a text as it is, or of a conversation through the model's chat template."""
        return self._connection.open().tokenize(prompt, self.model)


class EmbeddingFields(ConnectionFields):
    """An embedding model by one of the three ways in."""

    task: ClassVar[Task] = "embedding"
    dimensions: int | None = Field(default=None, ge=1)  # keep the first ones of a Matryoshka model
    truncate: bool = False  # cut a text that is longer than the model's limit, instead of refusing it

    def vectors(self, texts: list[str], input_type: InputType) -> list[list[float]]:
        """One vector for each text, in order; none for no texts."""
        return self._connection.open().embed(texts, self._embed_options(input_type)) if texts else []

    async def avectors(self, texts: list[str], input_type: InputType) -> list[list[float]]:
        """As ``vectors``."""
        if not texts:
            return []
        return await (await self._connection.aopen()).aembed(texts, self._embed_options(input_type))

    def _embed_options(self, input_type: InputType) -> EmbedOptions:
        return EmbedOptions(input_type, self.model, self.dimensions, self.truncate)


class RerankFields(ConnectionFields):
    """A reranker by one of the three ways in."""

    task: ClassVar[Task] = "rerank"
    top_n: int | None = Field(default=3, ge=1)  # how many are kept; None: all, in the new order

    def ranking(self, query: str, documents: list[str]) -> list[RerankResult]:
        """The best ``top_n``, best first; none for no documents."""
        return self._connection.open().rerank(query, documents, self._rerank_options()) if documents else []

    async def aranking(self, query: str, documents: list[str]) -> list[RerankResult]:
        """As ``ranking``."""
        if not documents:
            return []
        return await (await self._connection.aopen()).arerank(query, documents, self._rerank_options())

    def _rerank_options(self) -> RerankOptions:
        return RerankOptions(self.model, self.top_n)
