"""carrel's chat models as a LlamaIndex LLM. Translates and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from carrel_client import ChatFields, ModelInfo, TextRequest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM
from llama_index.llms.carrel import _messages as convert
from pydantic import ConfigDict


class Carrel(LLM, ChatFields):
    """A chat model of carrel, in this process or over HTTP.

    Args:
        model: a folder, a hub name or a bundled ``starter/…`` model, opened here on first use.
        llm: a ``carrel.LLM`` to share; it is never closed.
        base_url: a carrel server; ``Carrel.from_server`` checks it at once.
        context_window: what LlamaIndex may fill, prompt and answer together; None: what the model has.
        temperature, max_tokens, stop, …: as in ``carrel.SamplingParams``; each may also be given to one call.

    Example:
        .. code-block:: python

            from llama_index.llms.carrel import Carrel

            with Carrel(model="starter/reader", max_tokens=32) as llm:
                for response in llm.stream_complete("什么是分页注意力？"):
                    print(response.delta, end="")

    Raises:
        carrel.errors.CarrelError: whatever the engine refuses, with what to do about it.
        carrel_client.ServerError: whatever the server refuses, in its own words.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    context_window: int | None = None

    @classmethod
    def class_name(cls) -> str:
        return "Carrel_LLM"

    @classmethod
    def from_server(cls, base_url: str, **fields: Any) -> Self:
        """A model of the carrel server there, with the name and the context length that its /v1/models gives.

        Raises:
            carrel_client.ServerUnreachableError: nothing answers there.
            carrel.errors.ModelNotFoundError: it has no chat model, or none of the name in ``model=``.
        """
        with cls(base_url=base_url, **fields) as probe:
            info = probe.model_info()
        return cls(**{"context_window": info.max_model_len, **fields, "base_url": base_url, "model": info.name})

    @property
    def metadata(self) -> LLMMetadata:
        """Opens the model: its context length stands in its files."""
        info = self.model_info()
        window = self.context_window or info.max_model_len or DEFAULT_CONTEXT_WINDOW
        return LLMMetadata(
            context_window=window,
            num_output=self.max_tokens or min(DEFAULT_NUM_OUTPUTS, window // 4),  # leaves room for a prompt
            is_chat_model=info.has_chat_template,
            is_function_calling_model=False,
            model_name=info.name,
        )

    def to_payload(self) -> dict[str, Any]:
        """What observers see of this model, with no credentials, and without opening it."""
        return {"class_name": self.class_name(), "model": self.model, "base_url": self.base_url}

    # Requests. A model without a chat template gets conversations as LlamaIndex writes them out.

    def _chat_request(self, messages: Sequence[ChatMessage], options: dict[str, Any], info: ModelInfo) -> TextRequest:
        if info.has_chat_template:
            return self.text_request(convert.to_dicts(messages), options)
        assert self.messages_to_prompt is not None, "LlamaIndex sets a default"
        return self.text_request(self.messages_to_prompt(messages), options)

    def _completion_request(
        self, prompt: str, formatted: bool, options: dict[str, Any], info: ModelInfo
    ) -> TextRequest:
        """A formatted prompt goes to the model as it is; any other is what the user says in a chat."""
        if formatted:
            return self.text_request(prompt, options)
        assert self.completion_to_prompt is not None, "LlamaIndex sets a default"
        prompt = self.completion_to_prompt(prompt)
        return self.text_request([{"role": "user", "content": prompt}] if info.has_chat_template else prompt, options)

    # LlamaIndex's eight

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return convert.to_chat_response(self.reply(self._chat_request(messages, kwargs, self.model_info())))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return convert.to_chat_stream(self.pieces(self._chat_request(messages, kwargs, self.model_info())))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return convert.to_chat_response(
            await self.areply(self._chat_request(messages, kwargs, await self.amodel_info()))
        )

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return convert.to_chat_astream(self.apieces(self._chat_request(messages, kwargs, await self.amodel_info())))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return convert.to_completion_response(
            self.reply(self._completion_request(prompt, formatted, kwargs, self.model_info()))
        )

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return convert.to_completion_stream(
            self.pieces(self._completion_request(prompt, formatted, kwargs, self.model_info()))
        )

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        request = self._completion_request(prompt, formatted, kwargs, await self.amodel_info())
        return convert.to_completion_response(await self.areply(request))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return convert.to_completion_astream(
            self.apieces(self._completion_request(prompt, formatted, kwargs, await self.amodel_info()))
        )
