"""The bodies of Ollama's routes. Knows Ollama's names for things; ranges are ``SamplingParams``' own.

What carrel does not do is refused (images, suffixes, Go templates); options that only say how Ollama shall run a model
(``num_ctx``, ``num_gpu``, ``use_mmap``, …) are ignored with one warning each, as Ollama itself ignores unknown ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from carrel.errors import InvalidParamsError
from carrel.params import RequestOutputKind, SamplingParams
from carrel.structured_params import StructuredOutputsParams
from pydantic import Field

from carrel_server.schemas.base import Body
from carrel_server.schemas.rerank import RerankBody
from carrel_server.schemas.thinking import of_effort, switch

Effort = Literal["low", "medium", "high"]
SPELLINGS = {  # Ollama's name → carrel's
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}
DURATION = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)?((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*")
MAX_DURATION = 64  # characters: the pattern's time grows with their square
JSON_OBJECT = StructuredOutputsParams(json_object=True)


class OllamaOptions(Body):
    """``options``: how tokens are drawn, and how many."""

    neutral: ClassVar[frozenset[str]] = frozenset({"penalize_newline", "mirostat_tau", "mirostat_eta"})
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mirostat": (0, 0.0),
        "typical_p": (1, 1.0, 0, 0.0),
        "tfs_z": (1, 1.0, 0, 0.0),
    }

    num_predict: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None

    @property
    def max_tokens(self) -> int | None:
        """None, Ollama's -1 (no end), -2 (until the context is full) and 0: up to the context length.

        Raises:
            InvalidParamsError: another negative number.
        """
        if self.num_predict is not None and self.num_predict < -2:
            raise InvalidParamsError(f"num_predict must be at least -2, got {self.num_predict}.", param="num_predict")
        return self.num_predict if self.num_predict is not None and self.num_predict > 0 else None

    def sampling(self) -> dict[str, Any]:
        """What was sent, by ``SamplingParams``' names. A seed of -1 is none, as in Ollama."""
        sent = {name: value for own, name in SPELLINGS.items() if (value := getattr(self, own)) is not None}
        return sent if self.seed is None or self.seed == -1 else {**sent, "seed": self.seed}


class OllamaBody(Body):
    """What all of Ollama's requests may say."""

    name: str | None = None  # older clients' name for ``model``
    keep_alive: float | str | None = None
    options: OllamaOptions = Field(default_factory=OllamaOptions)

    def unknown_fields(self) -> list[str]:
        return [*super().unknown_fields(), *(f"options.{name}" for name in self.options.unknown_fields())]

    def check_keep_alive(self) -> None:
        """
        Raises:
            InvalidParamsError: neither a number of seconds nor a duration such as "5m".
        """
        value = self.keep_alive
        if isinstance(value, str) and (len(value) > MAX_DURATION or not DURATION.fullmatch(value)):
            message = f'keep_alive must be seconds, or a duration such as "5m", got {value[:80]!r}.'
            raise InvalidParamsError(message, param="keep_alive")

    @property
    def unloads(self) -> bool:
        """Whether the model shall be forgotten afterwards."""
        value = self.keep_alive
        return re.search("[1-9]", value) is None if isinstance(value, str) else value == 0


class OllamaGenerationBody(OllamaBody):
    """What chat and generate share."""

    stream: bool = True
    format: str | dict[str, Any] = ""
    think: bool | Effort | None = None
    logprobs: bool = False
    top_logprobs: int | None = None

    @property
    def form(self) -> StructuredOutputsParams | None:
        """
        Raises:
            InvalidParamsError: a word other than "json".
        """
        if isinstance(self.format, dict):
            return StructuredOutputsParams(json=self.format)
        if self.format not in ("", "json"):
            message = f'format must be "json" or a JSON schema, got {self.format!r:.80}.'
            raise InvalidParamsError(message, param="format")
        return JSON_OBJECT if self.format else None

    @property
    def thinks(self) -> bool:
        """Whether thoughts are asked for; not, if nothing is said."""
        return bool(self.think)

    def thinking(self) -> dict[str, Any]:
        """Variables for the chat template."""
        if self.think is None:
            return {}
        return switch(self.think) if isinstance(self.think, bool) else of_effort(self.think)

    def sampling_params(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """What was sent, over the model's defaults, over vLLM's."""
        kind = RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY
        fixed: dict[str, Any] = {
            "max_tokens": self.options.max_tokens,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "structured_outputs": self.form,
            "output_kind": kind,
        }
        return SamplingParams(**{**defaults, **self.options.sampling(), **fixed})


class OllamaChatBody(OllamaGenerationBody):
    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] = Field(default_factory=list)


class OllamaGenerateBody(OllamaGenerationBody):
    prompt: str = ""
    system: str = ""
    raw: bool = False
    template: str = ""
    suffix: str = ""
    images: list[Any] = Field(default_factory=list)
    context: list[int] = Field(default_factory=list)

    def check(self) -> None:
        """
        Raises:
            InvalidParamsError: something that carrel does not do.
        """
        if self.raw and self.system:
            raise InvalidParamsError("raw mode takes the prompt as it stands, so it has no system.", param="system")
        for name, why in REFUSED.items():
            if getattr(self, name):
                raise InvalidParamsError(f"{name} {why}.", param=name)


REFUSED = {
    "template": "is a template in Go's language, which carrel does not run; start the server with --chat-template FILE",
    "suffix": "is not supported: carrel has no models that fill in the middle; leave it out",
    "images": "are not supported, only text; leave them out",
    "context": "is not supported, Ollama has given it up too; send the conversation to /api/chat",
}


class OllamaEmbedBody(OllamaBody):
    input: str | list[str] = ""
    truncate: bool = True
    dimensions: int | None = None


class OllamaEmbeddingsBody(OllamaBody):
    prompt: str = ""


class OllamaShowBody(OllamaBody):
    neutral: ClassVar[frozenset[str]] = frozenset({"model", "system", "template", "verbose"})


class OllamaRerankBody(RerankBody):
    """As Jina's; ``options`` and ``keep_alive`` are accepted."""

    neutral: ClassVar[frozenset[str]] = RerankBody.neutral | {"options", "keep_alive"}
