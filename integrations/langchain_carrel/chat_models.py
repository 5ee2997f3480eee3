"""carrel's chat models as a LangChain chat model. Translates and does nothing else.

::

    invoke · batch · stream     → _generate  · _stream  → ChatFields.reply  · pieces  ┐ carrel.LLM, or the
    ainvoke · abatch · astream  → _agenerate · _astream → ChatFields.areply · apieces ┘ server's OpenAI routes
    messages in: _messages.to_dicts          answers out: _messages.to_result, to_chunk
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, NoReturn

from carrel_client import ChatFields, NotAvailableError, TextRequest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import ConfigDict

from langchain_carrel._messages import to_chunk, to_dicts, to_result

MAX_THREADS = 1024  # more inputs than that wait here: a step of the engine takes 256 of them


class ChatCarrel(BaseChatModel, ChatFields):
    """A chat model of carrel, in this process or over HTTP.

    Args:
        model: a folder, a hub name or a bundled ``starter/…`` model, opened here on first use.
        llm: a ``carrel.LLM`` to share; it is never closed.
        base_url: a carrel server.
        temperature, max_tokens, stop, …: as in ``carrel.SamplingParams``; each may also be given to one call.

    Example:
        .. code-block:: python

            from langchain_carrel import ChatCarrel

            with ChatCarrel(model="starter/reader", max_tokens=32) as chat:
                for chunk in chat.stream("什么是分页注意力？"):
                    print(chunk.text, end="")

    Raises:
        carrel.errors.CarrelError: whatever the engine refuses, with what to do about it.
        carrel_client.ServerError: whatever the server refuses, in its own words.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    streaming: bool = False  # invoke() streams too, for callbacks that want every token

    @property
    def _llm_type(self) -> str:
        return "carrel-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What tells this model from others, in traces and in LangChain's cache of answers."""
        shared = self.llm is not None and self.model is None  # the shared engine knows the name
        way_in = {"model": self.model_info().name if shared else self.model, "base_url": self.base_url}
        return {**way_in, "chat_template_kwargs": self.chat_template_kwargs, **self.sampling_options({})}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params.setdefault("ls_model_name", self._identifying_params["model"] or "default")
        return params

    # One answer

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]) -> TextRequest:
        """``stream`` is LangChain's own switch between invoke and stream; it has been heeded by now."""
        overrides = {name: value for name, value in options.items() if name != "stream"}
        return self.text_request(to_dicts(messages), {"stop": stop, **overrides})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return to_result(self.reply(self._request(messages, stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return to_result(await self.areply(self._request(messages, stop, kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with closing(self.pieces(self._request(messages, stop, kwargs))) as pieces:
            for piece in pieces:
                yield to_chunk(piece)  # LangChain's base class tells the callbacks

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self.apieces(self._request(messages, stop, kwargs))) as pieces:
            async for piece in pieces:
                yield to_chunk(piece)

    # Many answers

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """As LangChain's, callbacks and all, but with every input in flight at once: the engine batches what it sees.

        LangChain's own thread pool would show it ``cpus + 4`` of them. ``max_concurrency`` in the config is respected.
        """
        configs = self._in_flight(config, len(inputs))
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def batch_as_completed(  # type: ignore[override]  # the overloads of the base class, in one signature
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, AIMessage | Exception]]:
        """As ``batch``, each answer as soon as it is there."""
        configs = self._in_flight(config, len(inputs))
        return super().batch_as_completed(inputs, configs, return_exceptions=return_exceptions, **kwargs)  # type: ignore[call-overload,no-any-return]

    @staticmethod
    def _in_flight(config: RunnableConfig | Sequence[RunnableConfig] | None, num_inputs: int) -> list[RunnableConfig]:
        """One config an input, with threads for all inputs unless the caller set ``max_concurrency``."""
        threads = max(1, min(num_inputs, MAX_THREADS))
        configs = get_config_list(config, num_inputs)
        return [{**one, "max_concurrency": one.get("max_concurrency") or threads} for one in configs]

    # Counting

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of the model's own tokenizer, without special tokens."""
        return self.custom_get_token_ids(text) if self.custom_get_token_ids else self.tokenize(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the conversation as the model's chat template writes it, up to where the answer begins."""
        if tools:
            self.bind_tools(tools)
        return len(self.tokenize(to_dicts(messages)))

    # Not there yet

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> NoReturn:
        """
        Raises:
            NotAvailableError: always.
        """
        raise NotAvailableError("ChatCarrel does not call tools yet: ask for text, or pick the tool in your own code.")

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> NoReturn:
        """
        Raises:
            NotAvailableError: always.
        """
        raise NotAvailableError(
            "ChatCarrel does not hold answers to a schema yet: ask for JSON in the prompt and use JsonOutputParser."
        )
