"""One completion request on its way: what was asked, of which model, under which id. Knows no answer's shape."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from carrel.errors import InvalidParamsError
from carrel.outputs import LogprobsOnePosition, RequestOutput
from carrel.params import SamplingParams
from fastapi import Request

from carrel_server.auth import cache_salt
from carrel_server.logprobs import completion_logprobs
from carrel_server.schemas.beam import beam_params
from carrel_server.schemas.completion import DEFAULT_MAX_TOKENS, CompletionBody, Prompt
from carrel_server.service import Service, new_id

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel

Positions = Sequence[LogprobsOnePosition | None]


@dataclass(frozen=True)
class CompletionCall:
    """A checked request; choice ``c`` of prompt ``p`` has the index ``p * num_choices + c``."""

    service: Service
    body: CompletionBody
    hosted: HostedModel
    id: str
    created: int
    cache_salt: str | None

    @cached_property
    def head(self) -> dict[str, Any]:
        model = self.body.model or self.hosted.names[0]
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": model}

    @property
    def num_choices(self) -> int:
        return self.body.n or 1

    @property
    def echoes_logprobs(self) -> bool:
        """Whether the answer's log probabilities begin with those of the prompt."""
        return self.body.echo and self.body.logprobs is not None

    def outputs(self) -> list[AsyncIterator[RequestOutput]]:
        """One stream a prompt.

        Raises:
            InvalidParamsError: fields that do not fit each other, or out of their ranges.
        """
        request_id = new_id("cmpl") if self.body.request_id else self.id  # two callers may give the same one
        start = self._beams if self.body.use_beam_search else self._samples
        return [start(prompt, f"{request_id}-{index}") for index, prompt in enumerate(self.body.prompts)]

    def logprobs(self, token_ids: Sequence[int], positions: Positions, *, offset: int = 0) -> dict[str, Any]:
        """``offset``: characters of the tokens before these."""
        top, as_ids = self.body.logprobs or 0, self.body.return_tokens_as_token_ids
        return completion_logprobs(self.hosted.tokenizer, token_ids, positions, top, offset=offset, as_ids=as_ids)

    def echo(self, prompt: Prompt, output: RequestOutput) -> str:
        """The prompt's text, as far as it was read, if the answer shall begin with it."""
        if not self.body.echo:
            return ""
        if isinstance(prompt, str) and not output.truncated:
            return prompt
        return self.hosted.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False)

    def shown(self, output: RequestOutput) -> RequestOutput:
        """The output as it is answered: of a request that only wants its prompt back, without the token it took."""
        if not self.body.echoes_only:
            return output
        for choice in output.outputs:
            choice.text, choice.token_ids, choice.stop_reason = "", [], None
            choice.logprobs = None if choice.logprobs is None else []
            choice.finish_reason = choice.finish_reason and "length"
        output.num_generated_tokens = 0
        return output

    @cached_property
    def _params(self) -> SamplingParams:
        body = self.body
        defaults = self.service.sampling_defaults(self.hosted)
        params = body.sampling_params(defaults, max_tokens=self._max_tokens, logprobs=body.logprobs)
        if self.echoes_logprobs and params.prompt_logprobs is None:
            return replace(params, prompt_logprobs=body.logprobs)
        return params

    @property
    def _max_tokens(self) -> int:
        """OpenAI's default when there is none; the engine generates at least one."""
        limit = DEFAULT_MAX_TOKENS if self.body.max_tokens is None else self.body.max_tokens
        return 1 if self.body.echoes_only else limit

    def _samples(self, prompt: Prompt, request_id: str) -> AsyncIterator[RequestOutput]:
        return self.service.llm.generate(self._engine_prompt(prompt), self._params, **self._options(request_id))

    def _beams(self, prompt: Prompt, request_id: str) -> AsyncIterator[RequestOutput]:
        if self.echoes_logprobs:
            raise InvalidParamsError("logprobs with echo does not go with use_beam_search.", param="logprobs")
        if self.body.truncate_prompt_tokens is not None:
            message = "truncate_prompt_tokens does not go with use_beam_search."
            raise InvalidParamsError(message, param="truncate_prompt_tokens")
        params = beam_params(self.body, self._max_tokens)
        return self.service.llm.beam_search(self._engine_prompt(prompt), params, **self._options(request_id))

    def _engine_prompt(self, prompt: Prompt) -> Any:
        if isinstance(prompt, str):
            return {"prompt": prompt, "add_special_tokens": self.body.add_special_tokens}
        return prompt

    def _options(self, request_id: str) -> dict[str, Any]:
        return {
            "model": self.hosted.key,
            "request_id": request_id,
            "priority": self.body.priority,
            "cache_salt": self.cache_salt,
        }


def completion_call(request: Request, service: Service, body: CompletionBody) -> CompletionCall:
    """
    Raises:
        InvalidParamsError: fields that do not fit each other.
        ModelNotFoundError: no model of that name.
    """
    body.check()
    hosted = service.model(body.model, "chat")
    id = f"cmpl-{body.request_id}" if body.request_id else new_id("cmpl")
    return CompletionCall(service, body, hosted, id, int(time.time()), cache_salt(request, body.cache_salt))
