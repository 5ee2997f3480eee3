"""The body of ``/v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from carrel.errors import InvalidParamsError
from pydantic import StrictInt

from carrel_server.schemas.base import as_list
from carrel_server.schemas.sampling import SamplingBody

Prompt = str | list[int]
DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionBody(SamplingBody):
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {**SamplingBody.not_yet, "suffix": (), "prompt_embeds": ()}

    prompt: str | list[StrictInt] | list[str] | list[list[StrictInt]]
    logprobs: int | None = None
    echo: bool = False
    add_special_tokens: bool = True

    def check(self) -> None:
        """
        Raises:
            InvalidParamsError: fields that do not fit each other, or an empty prompt.
        """
        self.check_stream()
        if self.echo and self.logprobs is not None:
            raise InvalidParamsError("echo with logprobs is not supported by carrel yet.", param="echo")
        if not self.add_special_tokens:
            message = "add_special_tokens: false is not supported here; send the prompt as token ids instead."
            raise InvalidParamsError(message, param="add_special_tokens")
        if not self.prompt or not all(isinstance(prompt, int) or prompt for prompt in self.prompt):
            raise InvalidParamsError("prompt must not be empty.", param="prompt")

    @property
    def prompts(self) -> list[Prompt]:
        """One entry a prompt, however many were sent and in whichever of the four shapes."""
        return as_list(self.prompt)
