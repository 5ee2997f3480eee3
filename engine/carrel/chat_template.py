"""Renders messages into the prompt text that a chat model was trained on. Knows Jinja; knows no tokens.

Templates are programs that come with a model, so they run in a sandbox: :mod:`carrel.template_sandbox`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from carrel.chat_messages import Message, argument_spellings, continued, normalize, with_short_ids
from carrel.errors import ChatTemplateError, RequestError
from carrel.template_sandbox import Sandbox

# What a template can raise beside TypeError: its own refusals, and mistakes in its expressions.
TEMPLATE_FAILURES = (jinja2.TemplateError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
SHORT_IDS = re.compile(r"length\s*(!=|==)\s*9")  # Mistral's templates take only ids of nine letters and digits
CONTINUE_HERE = "\ue000carrel-continues-here\ue000"  # private use: in no text and no template


class ChatTemplate:
    """One model's template. ``tool_text`` is another one that it has for conversations with tools.

    >>> template = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}")
    >>> template.render([{"role": "user", "content": "你好"}])
    'user: 你好\\n'
    """

    def __init__(
        self, text: str, special_tokens: Mapping[str, str] | None = None, *, tool_text: str | None = None
    ) -> None:
        self.text, self.tool_text = text, tool_text
        self._special_tokens = dict(special_tokens or {})
        self._sandbox = Sandbox()
        self._template = self._compiled(text)
        self._tool_template = self._template if tool_text is None else self._compiled(tool_text)

    def _compiled(self, text: str) -> jinja2.Template:
        try:
            return self._sandbox.from_string(text)
        except (jinja2.TemplateError, RecursionError) as error:
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
        text = self.tool_text if tools and self.tool_text else self.text
        chat = normalize(messages, knows_developer="developer" in text)
        if SHORT_IDS.search(text):
            chat = with_short_ids(chat)
        if continue_final_message:
            chat = continued(chat, CONTINUE_HERE)
        options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, **kwargs}
        text = self._render_any(chat, options | {"tools": list(tools) if tools else None})
        if not continue_final_message:
            return text
        before, mark, _ = text.rpartition(CONTINUE_HERE)
        if not mark:
            raise ChatTemplateError("The chat template drops the last message, so it cannot be continued.")
        return before

    def _render_any(self, chat: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """Templates differ in how they take a tool call's arguments; the first spelling that renders is right."""
        error: Exception | None = None
        template = self._tool_template if options["tools"] else self._template
        for spelling in argument_spellings(chat):
            try:
                return self._sandbox.draw(template, messages=spelling, **self._special_tokens, **options)
            except (TypeError, jinja2.UndefinedError) as refused:
                error = error or refused
            except TEMPLATE_FAILURES as refused:
                raise ChatTemplateError(
                    f"The chat template refused the messages: {refused}", param="messages"
                ) from None
        raise ChatTemplateError(f"The chat template cannot take these messages: {error}", param="messages") from error
