"""The body of ``/v1/responses``, and what it is as a chat. vLLM's sampling fields are taken here, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from carrel.errors import InvalidParamsError

from carrel_server.schemas.chat import ChatBody
from carrel_server.schemas.response_input import to_messages
from carrel_server.schemas.sampling import NEUTRAL, SamplingBody

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"  # thoughts are plain text here, and can be sent back as they came
KNOWN = {"include": (LOGPROBS, ENCRYPTED), "text": ("format",), "reasoning": ("effort",)}
NOT_STORED = (
    "carrel stores no responses, so there is nothing to go on from: send the whole conversation as input, "
    "the output items of earlier responses included."
)


class ResponsesBody(SamplingBody):
    neutral: ClassVar[frozenset[str]] = NEUTRAL | {"max_tool_calls", "verbosity"}
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingBody.not_yet,
        "background": (),
        "prompt": (),
        "context_management": (),
    }

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    text: dict[str, Any] | None = None  # {"format": …}
    reasoning: dict[str, Any] | None = None  # {"effort": …}
    include: list[str] | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] = "disabled"  # auto: keep what fits of the prompt, its end
    store: bool | None = None  # whatever it says, nothing is stored
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None

    def unknown_fields(self) -> list[str]:
        given = {"include": self.include or (), "text": self.text or (), "reasoning": self.reasoning or ()}
        others = [f"{field}.{name}" for field, names in given.items() for name in names if name not in KNOWN[field]]
        return super().unknown_fields() + others

    def to_chat(self) -> ChatBody:
        """
        Raises:
            InvalidParamsError: a field that cannot be had here, or fields that do not fit each other.
            pydantic.ValidationError: a value of the wrong type.
        """
        self._check()
        sampling = self.model_dump(include=set(SamplingBody.model_fields), exclude_unset=True)
        limit = self.max_output_tokens if self.max_output_tokens is not None else self.max_tokens
        body = {
            **sampling,
            "messages": to_messages(self.instructions, self.input),
            "max_completion_tokens": limit,
            "tools": self.tools,
            "tool_choice": self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self._format(),
            "reasoning_effort": (self.reasoning or {}).get("effort"),
            "logprobs": self.wants_logprobs,
            "top_logprobs": self.top_logprobs,
            "truncate_prompt_tokens": -1 if self.truncation == "auto" else self.truncate_prompt_tokens,
            "chat_template_kwargs": self.chat_template_kwargs,
            "enable_thinking": self.enable_thinking,
        }
        return ChatBody.model_validate({key: value for key, value in body.items() if key != "stream_options"})

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    def format(self) -> dict[str, Any]:
        """``text.format``, text unless said otherwise."""
        given = (self.text or {}).get("format") or {"type": "text"}
        if not isinstance(given, dict):
            raise InvalidParamsError("text.format must be an object.", param="text")
        return given

    def _format(self) -> dict[str, Any] | None:
        """In chat's spelling: there the schema lies one level deeper."""
        given = self.format()
        if given.get("type") != "json_schema":
            return self.response_format or given
        return {"type": "json_schema", "json_schema": {key: value for key, value in given.items() if key != "type"}}

    def _check(self) -> None:
        for name in ("previous_response_id", "conversation"):
            if getattr(self, name) is not None:
                raise InvalidParamsError(f"{name} cannot be used: {NOT_STORED}", param=name)
        more_than_text = {
            "n": self.n not in (None, 1),
            "best_of": self.best_of not in (None, 1),
            "use_beam_search": self.use_beam_search,
            "prompt_logprobs": self.prompt_logprobs is not None,
            "return_token_ids": self.return_token_ids,
        }
        for name, asked in more_than_text.items():
            if asked:
                raise InvalidParamsError(f"{name} has no place in a response; use /v1/chat/completions.", param=name)
        if not self.input:
            raise InvalidParamsError("input must not be empty.", param="input")
        effort = (self.reasoning or {}).get("effort")
        if effort is not None and not isinstance(effort, str):
            raise InvalidParamsError("reasoning.effort must be text.", param="reasoning")
