"""The bodies of ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

from carrel.errors import InvalidParamsError
from pydantic import Field

from carrel_server.schemas.base import Body


class TokenizeBody(Body):
    """A text, or the messages of a chat as its template renders them."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None  # None: true for a text; false for a chat, whose template writes them
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    return_token_strs: bool = False

    def check(self) -> None:
        """
        Raises:
            InvalidParamsError: not exactly one of ``prompt`` and ``messages``.
        """
        if (self.prompt is None) == (self.messages is None):
            raise InvalidParamsError("Send one of prompt and messages.", param="prompt")


class DetokenizeBody(Body):
    tokens: list[int]
    skip_special_tokens: bool = False
