"""One chat request on its way: what was asked, of which model, under which id. Knows no answer's bytes."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from carrel.chat_options import ChatOptions
from carrel.errors import InvalidParamsError, ModelNotFoundError
from carrel.outputs import LogprobsOnePosition, RequestOutput
from fastapi import Request

from carrel_server.auth import cache_salt
from carrel_server.chat_beams import chat_beams
from carrel_server.chat_shapes import ChatShape, message_of
from carrel_server.logprobs import chat_logprobs
from carrel_server.reasoning_tokens import count_reasoning
from carrel_server.schemas.chat import ChatBody
from carrel_server.schemas.thinking import split_alias
from carrel_server.service import Service
from carrel_server.usage import Usage

if TYPE_CHECKING:
    from carrel.hosted_model import HostedModel


@dataclass(frozen=True)
class ChatCall:
    """A checked request. ``/v1/responses`` makes one, too."""

    service: Service
    body: ChatBody
    hosted: HostedModel
    id: str
    created: int
    cache_salt: str | None
    thinks: bool | None = None  # what the alias of the model's name says

    @cached_property
    def head(self) -> dict[str, Any]:
        return {"id": self.id, "created": self.created, "model": self.body.model or self.hosted.names[0]}

    @cached_property
    def shape(self) -> ChatShape:
        use = self.body.tool_use()
        return ChatShape(
            shows_reasoning=self.body.shows_reasoning,
            names_tool=use.named,
            uses_functions=bool(self.body.functions),
            echo=self._echo,
        )

    @property
    def num_choices(self) -> int:
        return self.body.n or 1

    def outputs(self) -> AsyncIterator[RequestOutput]:
        body, service = self.body, self.service
        request_id = (
            f"{self.id}-{secrets.token_hex(4)}" if body.request_id else self.id
        )  # two callers may give the same one
        options = self.options()
        if body.use_beam_search:
            return chat_beams(
                service, self.hosted, body, body.messages, options, request_id=request_id, cache_salt=self.cache_salt
            )
        defaults = service.sampling_defaults(self.hosted)
        return service.llm.chat(
            body.messages,
            body.sampling_params(defaults, max_tokens=body.token_limit, logprobs=body.num_logprobs),
            model=self.hosted.key,
            **{field.name: getattr(options, field.name) for field in fields(ChatOptions)},
            request_id=request_id,
            priority=body.priority,
            cache_salt=self.cache_salt,
        )

    def options(self) -> ChatOptions:
        body, use = self.body, self.body.tool_use()
        return ChatOptions(
            tools=use.tools,
            tool_choice=use.choice,
            parallel_tool_calls=body.parallel_tool_calls and not body.functions,
            chat_template=body.chat_template,
            chat_template_kwargs=body.template_kwargs(self.service.settings.chat_template_kwargs, self.thinks),
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
        )

    def logprobs(
        self, token_ids: Sequence[int], positions: Sequence[LogprobsOnePosition] | None
    ) -> dict[str, Any] | None:
        if not self.body.logprobs or positions is None:
            return None
        top, as_ids = self.body.top_logprobs or 0, self.body.return_tokens_as_token_ids
        return chat_logprobs(self.hosted.tokenizer, token_ids, positions, top, as_ids=as_ids)

    @property
    def _echo(self) -> str:
        last = self.body.messages[-1]
        text = last.get("content")
        return text if self.body.echo and last.get("role") == "assistant" and isinstance(text, str) else ""


def chat_call(request: Request, service: Service, body: ChatBody, prefix: str = "chatcmpl-") -> ChatCall:
    """
    Raises:
        InvalidParamsError: fields that do not fit each other, or a chat template that is not trusted.
        ModelNotFoundError: no model of that name.
    """
    body.check()
    if body.chat_template is not None and not service.settings.trust_request_chat_template:
        message = (
            "A request may bring a chat template only if the server was started with --trust-request-chat-template."
        )
        raise InvalidParamsError(message, param="chat_template")
    hosted, thinks = chat_model(service, body.model)
    id = prefix + (body.request_id or secrets.token_hex(12))
    return ChatCall(service, body, hosted, id, int(time.time()), cache_salt(request, body.cache_salt), thinks)


def chat_model(service: Service, name: str | None) -> tuple[HostedModel, bool | None]:
    """The model of that name, and whether its alias, ``name:nothink`` or ``name:think``, says how to answer."""
    bare, thinks = split_alias(name or "")
    if thinks is not None:
        try:
            service.host.find(name or "")
        except ModelNotFoundError:
            return service.model(bare, "chat"), thinks
    return service.model(name, "chat"), None


def final_usage(call: ChatCall, output: RequestOutput) -> Usage:
    """The counts of a finished call, which the metrics are told, too."""
    usage = Usage()
    usage.add_prompt(output)
    usage.count_tokens(output)
    usage.reasoning_tokens = sum(
        count_reasoning(call.hosted.tokenizer, choice.text, choice.token_ids, message_of(choice).reasoning)
        for choice in output.outputs
    )
    call.service.metrics.finished(call.hosted.names[0], output, usage.completion_tokens, len(output.outputs))
    return usage
