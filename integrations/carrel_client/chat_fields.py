"""What every chat adapter has: fields, and answers as carrel's records. Knows no framework's messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from carrel.chat_options import Tool
from carrel.config import Task
from carrel.errors import InvalidParamsError

from carrel_client.backend import ModelInfo, Piece, Prompt, Reply, TextRequest
from carrel_client.connection_fields import ConnectionFields
from carrel_client.sampling_fields import SamplingFields
from carrel_client.tool_use import TOOL_FIELDS, chat_options


class ChatFields(ConnectionFields, SamplingFields):
    """A chat model by one of the three ways in."""

    task: ClassVar[Task] = "chat"
    chat_template_kwargs: dict[str, Any] | None = None  # for the model's template, e.g. {"enable_thinking": False}

    def text_request(self, prompt: Prompt, overrides: Mapping[str, Any]) -> TextRequest:
        """One request; ``overrides`` are this call's options: ``model``, ``chat_template_kwargs`` and tools, too.

        Raises:
            InvalidParamsError: an option that carrel does not have, or one with a wrong value.
        """
        options = dict(overrides)
        model = options.pop("model", None) or self.model
        template = options.pop("chat_template_kwargs", None) or self.chat_template_kwargs
        chat = chat_options({name: options.pop(name, None) for name in TOOL_FIELDS}, template)
        if chat.tools and isinstance(prompt, str):
            message = "Tools are told by the chat template: send messages to a model that has one, not a plain text."
            raise InvalidParamsError(message, param="tools")
        sampling = self.sampling_options(options)
        if chat.forced_tools and "structured_outputs" in sampling:
            message = "tool_choice asks for a call, and structured_outputs or response_format for a form of the text."
            raise InvalidParamsError(f"{message} Give one of them.", param="tool_choice")
        return TextRequest(prompt, sampling, model, chat)

    def reply(self, request: TextRequest) -> Reply:
        """The whole answer."""
        return self._connection.open().generate(request)

    async def areply(self, request: TextRequest) -> Reply:
        """As ``reply``; cancelling it aborts the request."""
        return await (await self._connection.aopen()).agenerate(request)

    def pieces(self, request: TextRequest) -> Generator[Piece, None, None]:
        """The answer as it is written; closing the iterator aborts the request."""
        return self._connection.open().stream(request)

    async def apieces(self, request: TextRequest) -> AsyncGenerator[Piece, None]:
        """As ``pieces``."""
        async with aclosing((await self._connection.aopen()).astream(request)) as stream:
            async for piece in stream:
                yield piece

    def model_info(self) -> ModelInfo:
        """Name and context length of the chat model; opens it."""
        return self._connection.open().info(self.task, self.model)

    async def amodel_info(self) -> ModelInfo:
        """As ``model_info``; the event loop goes on while the model is read."""
        return await (await self._connection.aopen()).ainfo(self.task, self.model)

    def tokenize(self, prompt: Prompt, tools: Sequence[Tool] = ()) -> list[int]:
        """Token ids of a text as it is, or of a conversation and its tools through the model's chat template."""
        return self._connection.open().tokenize(self.text_request(prompt, {"tools": tools}))
