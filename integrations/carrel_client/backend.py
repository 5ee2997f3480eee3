"""What an adapter may ask of carrel, whichever way it came in, and what it gets back.

Sync and async twins return the same records. Knows no HTTP, no engine and no framework.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from carrel.chat_options import ChatOptions
from carrel.config import Task
from carrel.outputs import ChatMessage, RerankResult, ToolCall, ToolCallDelta

Message = Mapping[str, Any]  # one message as OpenAI's chat route takes it
Prompt = str | Sequence[Message]  # a text to continue, or a conversation for the model's chat template
InputType = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A text to continue (``str``) or a conversation to answer, with the sampling options that the caller set."""

    prompt: Prompt
    options: Mapping[str, Any] = field(default_factory=dict)  # names of carrel.SamplingParams; a form as a dict
    model: str | None = None  # None: the adapter's own, else the only chat model
    chat: ChatOptions = field(default_factory=ChatOptions)  # of a conversation: tools, variables of the template


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, found in the prefix cache

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_openai(self) -> dict[str, Any]:
        """
        >>> Usage(10, 2, 8).as_openai()["prompt_tokens_details"]
        {'cached_tokens': 8}
        """
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. ``text`` holds neither thoughts nor calls."""

    text: str
    finish_reason: str | None
    usage: Usage
    model: str
    reasoning: str = ""
    tool_calls: Sequence[ToolCall] = ()  # ``arguments`` is JSON text, cut short if the answer was

    @classmethod
    def of(cls, message: ChatMessage, finish_reason: str | None, usage: Usage, model: str) -> Self:
        """An answer that ends with calls ends because of them, forced ones too."""
        reason = "tool_calls" if finish_reason == "stop" and message.tool_calls else finish_reason
        return cls(message.content, reason, usage, model, message.reasoning, tuple(message.tool_calls))


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of a streamed answer.

    The last piece, and only it, has ``reply``, and nothing else. Joined deltas are ``reply.text``.
    """

    delta: str
    reply: Reply | None = None
    reasoning: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an adapter reports of its model."""

    name: str
    max_model_len: int | None  # tokens of prompt and output together; None: the server does not say
    has_chat_template: bool = True
    calls_tools: bool = False  # how the model writes calls is known, so it may choose to call


class Backend(Protocol):
    """One way in to the models of one engine. Thread-safe; errors are carrel's or the client's trees."""

    def info(self, task: Task, model: str | None) -> ModelInfo: ...
    async def ainfo(self, task: Task, model: str | None) -> ModelInfo: ...

    def tokenize(self, request: TextRequest) -> list[int]:
        """Ids of the prompt: a text as it is, a conversation through the chat template."""

    def generate(self, request: TextRequest) -> Reply: ...
    async def agenerate(self, request: TextRequest) -> Reply: ...
    def stream(self, request: TextRequest) -> Generator[Piece, None, None]: ...
    def astream(self, request: TextRequest) -> AsyncGenerator[Piece, None]: ...

    def embed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]: ...
    async def aembed(self, texts: Sequence[str], options: EmbedOptions) -> list[list[float]]: ...

    def rerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]: ...
    async def arerank(self, query: str, documents: Sequence[str], options: RerankOptions) -> list[RerankResult]: ...

    def close(self) -> None: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How to embed; vectors come back in the order of the texts."""

    input_type: InputType
    model: str | None = None
    dimensions: int | None = None
    truncate: bool = False  # cut a text that is too long instead of refusing it


@dataclass(frozen=True, slots=True)
class RerankOptions:
    """How to rerank; results come back best first, ``index`` is the place in the list that was given."""

    model: str | None = None
    top_n: int | None = None
