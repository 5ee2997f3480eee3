"""The body of ``/v1/chat/completions``. What stands inside the messages is the chat template's business."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

from carrel.errors import InvalidParamsError
from carrel.params import MAX_LOGPROBS
from pydantic import Field

from carrel_server.schemas.sampling import SamplingBody
from carrel_server.schemas.thinking import of_effort, of_thinking, over, switch
from carrel_server.schemas.tools import ToolUse, read_functions, read_tools


class ChatBody(SamplingBody):
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingBody.not_yet,
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "add_special_tokens": (),
        "mm_processor_kwargs": (),
        "media_io_kwargs": (),
    }

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    functions: list[Any] | None = None  # before tools
    function_call: str | dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    echo: bool = False  # the answer begins with the last message, if that was the assistant's
    chat_template: str | None = None  # refused unless the server was told to trust it
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None  # Qwen3's switch, for clients that cannot send chat_template_kwargs
    thinking: bool | dict[str, Any] | None = None  # Dify's and Anthropic's switch
    include_reasoning: bool = True
    reasoning_format: str | None = None  # "hidden" leaves the thoughts out; of others there is one format here

    def check(self) -> None:
        """
        Raises:
            InvalidParamsError: fields that do not fit each other.
        """
        self.check_stream()
        if self.top_logprobs and not self.logprobs:
            raise InvalidParamsError("top_logprobs needs logprobs: true.", param="top_logprobs")
        if not 0 <= (self.top_logprobs or 0) <= MAX_LOGPROBS:
            message = f"top_logprobs must be between 0 and {MAX_LOGPROBS}, got {self.top_logprobs}."
            raise InvalidParamsError(message, param="top_logprobs")
        if self.add_generation_prompt and self.continue_final_message:
            message = "continue_final_message needs add_generation_prompt: false."
            raise InvalidParamsError(message, param="continue_final_message")
        if self.tools and self.functions:
            raise InvalidParamsError("Send tools or functions, not both.", param="functions")
        if self.use_beam_search and (self.tools or self.functions):
            raise InvalidParamsError("use_beam_search does not go with tools.", param="use_beam_search")
        if self.tool_use().forced and self.form() is not None:
            raise InvalidParamsError(
                "tool_choice asks for a call, and response_format or structured_outputs for a form of the text; "
                "send one of them.",
                param="tool_choice",
            )

    def tool_use(self) -> ToolUse:
        """
        Raises:
            InvalidParamsError: a tool that is no function, or a choice that is none.
        """
        if self.functions:
            return read_functions(self.functions, self.function_call)
        return read_tools(self.tools or (), self.tool_choice)

    def template_kwargs(self, defaults: Mapping[str, Any], alias: bool | None = None) -> dict[str, Any]:
        """Variables of the chat template, from the weakest to the strongest: the server's, those of the model's alias
        (``:nothink``), of the request's own fields, of its ``chat_template_kwargs``."""
        layers = [
            {} if alias is None else switch(alias),
            of_effort(self.reasoning_effort),
            of_thinking(self.thinking),
            {} if self.enable_thinking is None else switch(self.enable_thinking),
            {} if self.documents is None else {"documents": self.documents},
            self.chat_template_kwargs,
        ]
        return checked_template_kwargs(reduce(over, layers, dict(defaults)))

    @property
    def shows_reasoning(self) -> bool:
        return self.include_reasoning and self.reasoning_format != "hidden"

    @property
    def token_limit(self) -> int | None:
        """OpenAI's newer spelling wins; None is up to the context length."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "self"})


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
