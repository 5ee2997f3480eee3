"""The body of ``/v1/chat/completions``. The messages inside are ``carrel_server.messages``' business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from carrel.errors import InvalidParamsError
from pydantic import Field

from carrel_server.schemas.sampling import SamplingBody


class ChatBody(SamplingBody):
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingBody.not_yet,
        "tools": (),
        "functions": (),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "chat_template": (),
        "echo": (),
        "mm_processor_kwargs": (),
    }

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    enable_thinking: bool | None = None  # Qwen3's switch, for clients that cannot send chat_template_kwargs
    documents: list[dict[str, Any]] | None = None

    def check(self) -> None:
        """
        Raises:
            InvalidParamsError: fields that do not fit each other.
        """
        self.check_stream()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidParamsError("top_logprobs needs logprobs: true.", param="top_logprobs")
        if self.add_generation_prompt and self.continue_final_message:
            message = "continue_final_message needs add_generation_prompt: false."
            raise InvalidParamsError(message, param="continue_final_message")

    def template_kwargs(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        named = {"enable_thinking": self.enable_thinking, "documents": self.documents}
        sent = {key: value for key, value in named.items() if value is not None}
        return checked_template_kwargs({**defaults, **sent, **self.chat_template_kwargs})

    @property
    def token_limit(self) -> int | None:
        """OpenAI's newer spelling wins; None is up to the context length."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message", "self"})


def checked_template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Raises:
        InvalidParamsError: a variable that the request has fields of its own for.
    """
    taken = sorted(RESERVED & kwargs.keys())
    if taken:
        message = f"chat_template_kwargs must not hold {taken[0]}; it is a field of the request."
        raise InvalidParamsError(message, param="chat_template_kwargs")
    return kwargs
