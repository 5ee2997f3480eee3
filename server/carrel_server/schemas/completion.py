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
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SamplingBody.not_yet,
        "suffix": (),
        "prompt_embeds": (),
        "logprob_token_ids": (),
        "repetition_detection": (),
        "truncation_side": ("left",),
    }

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
        if not self.prompt or not all(isinstance(prompt, int) or prompt for prompt in self.prompt):
            raise InvalidParamsError("prompt must not be empty.", param="prompt")
        if self.max_tokens == 0 and not self.echo:
            message = "max_tokens must be at least 1; 0 is for echo: true, which gives the prompt alone."
            raise InvalidParamsError(message, param="max_tokens")

    @property
    def echoes_only(self) -> bool:
        return self.echo and self.max_tokens == 0

    @property
    def prompts(self) -> list[Prompt]:
        """One entry a prompt, however many were sent and in whichever of the four shapes."""
        return as_list(self.prompt)
