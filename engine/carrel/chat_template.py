"""Renders messages into the prompt text that a chat model was trained on. Knows Jinja; knows no tokens.

Templates are programs that come with a model, so they run in a sandbox that can change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from carrel.chat_messages import Message, argument_spellings, continued, normalize
from carrel.errors import ChatTemplateError, RequestError

# What a template can raise beside TypeError: its own refusals, and mistakes in its expressions.
TEMPLATE_FAILURES = (jinja2.TemplateError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
CONTINUE_HERE = "\ue000carrel-continues-here\ue000"  # private use: in no text and no template


class ChatTemplate:
    """One model's template.

    >>> template = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}")
    >>> template.render([{"role": "user", "content": "你好"}])
    'user: 你好\\n'
    """

    def __init__(self, text: str, special_tokens: Mapping[str, str] | None = None) -> None:
        self.text = text
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = _environment().from_string(text)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(
                f"The chat template is not valid Jinja: {error}. Give another one (--chat-template).",
                param="chat_template",
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt text.

        ``continue_final_message`` leaves the last message open, so that the model goes on with it. ``kwargs`` go to
        the template, e.g. ``enable_thinking=False``.

        Raises:
            RequestError: the messages are not well formed.
            ChatTemplateError: the template refused them.
        """
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "add_generation_prompt and continue_final_message exclude each other.", param="continue_final_message"
            )
        chat = normalize(messages, knows_developer="developer" in self.text)
        if continue_final_message:
            chat = continued(chat, CONTINUE_HERE)
        options = {"tools": list(tools) if tools else None, "add_generation_prompt": add_generation_prompt, **kwargs}
        text = self._render_any(chat, options)
        if not continue_final_message:
            return text
        before, mark, _ = text.rpartition(CONTINUE_HERE)
        if not mark:
            raise ChatTemplateError("The chat template drops the last message, so it cannot be continued.")
        return before

    def _render_any(self, chat: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """Templates differ in how they take a tool call's arguments; the first spelling that renders is right."""
        error: Exception | None = None
        for spelling in argument_spellings(chat):
            try:
                return self._template.render(messages=spelling, **self._special_tokens, **options)
            except TypeError as refused:
                error = error or refused
            except TEMPLATE_FAILURES as refused:
                raise ChatTemplateError(
                    f"The chat template refused the messages: {refused}", param="messages"
                ) from None
        raise ChatTemplateError(f"The chat template cannot take these messages: {error}", param="messages") from error


class Generation(Extension):
    """``{% generation %}`` marks the model's own words for training; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up: templates are written for it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which a prompt must not be."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
