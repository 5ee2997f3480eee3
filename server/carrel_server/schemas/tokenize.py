"""The bodies of ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

from carrel.errors import InvalidParamsError
from pydantic import ValidationError

from carrel_server.errors import validation_error
from carrel_server.schemas.base import Body
from carrel_server.schemas.chat import ChatBody


class TokenizeBody(Body):
    """A text, or the messages of a chat with whatever else changes how they are rendered."""

    prompt: str | None = None
    add_special_tokens: bool | None = None  # None: true for a text; false for a chat, whose template writes them
    return_token_strs: bool = False

    # Of a chat: as /v1/chat/completions reads them.
    messages: list[dict[str, Any]] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    thinking: bool | dict[str, Any] | None = None

    def check(self) -> None:
        """
        Raises:
            InvalidParamsError: not exactly one of ``prompt`` and ``messages``.
        """
        if (self.prompt is None) == (self.messages is None):
            raise InvalidParamsError("Send one of prompt and messages.", param="prompt")

    def chat_body(self) -> ChatBody:
        """The chat whose prompt is counted.

        Raises:
            HttpError: 400, no such chat could be asked for.
        """
        fields = self.model_dump(include=set(ChatBody.model_fields), exclude_none=True)
        try:
            return ChatBody.model_validate(fields)
        except ValidationError as error:
            raise validation_error(error) from None


class DetokenizeBody(Body):
    tokens: list[int]
    skip_special_tokens: bool = False
