"""carrel's chat models as a LangChain chat model. Translates and does nothing else.

::

    invoke · batch · stream     → _generate  · _stream  → ChatFields.reply  · pieces  ┐ carrel.LLM, or the
    ainvoke · abatch · astream  → _agenerate · _astream → ChatFields.areply · apieces ┘ server's OpenAI routes
    messages in: _messages.to_dicts          answers out: _messages.to_result, to_chunk
    bind_tools, with_structured_output       bind options that every call may have, too
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from carrel_client import ChatFields, TextRequest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict

from langchain_carrel._messages import to_chunk, to_dicts, to_result
from langchain_carrel._structured import Method, asking, beside_raw, reading

MAX_THREADS = 1024  # more inputs than that wait here: a step of the engine takes 256 of them


class ChatCarrel(BaseChatModel, ChatFields):
    """A chat model of carrel, in this process or over HTTP.

    Args:
        model: a folder, a hub name or a bundled ``starter/…`` model, opened here on first use.
        llm: a ``carrel.LLM`` to share; it is never closed.
        base_url: a carrel server.
        temperature, max_tokens, stop, structured_outputs, …: as in ``carrel.SamplingParams``; each may also be given
            to one call. ``response_format`` is OpenAI's.

    A model's thoughts stand in ``message.additional_kwargs["reasoning_content"]`` and among its ``content_blocks``.

    Example:
        .. code-block:: python

            from langchain_carrel import ChatCarrel

            with ChatCarrel(model="starter/reader", max_tokens=32) as chat:
                for chunk in chat.stream("什么是分页注意力？"):
                    print(chunk.text, end="")

    >>> from langchain_carrel import ChatCarrel
    >>> with ChatCarrel(model="starter/reader") as chat:
    ...     chat.invoke("水是湿的吗?", structured_outputs={"choice": ["是", "否"]}).text in ("是", "否")
    True

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
                yield to_chunk(piece, as_blocks=self.output_version == "v1")  # the base class tells the callbacks

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self.apieces(self._request(messages, stop, kwargs))) as pieces:
            async for piece in pieces:
                yield to_chunk(piece, as_blocks=self.output_version == "v1")

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
        """Tokens of the conversation and of the tools as the model's chat template writes them, up to where the answer
        begins."""
        return len(self.tokenize(to_dicts(messages), [convert_to_openai_tool(tool) for tool in tools or ()]))

    # Tools and forms

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools; ``kwargs`` are options of its calls.

        Args:
            tools: functions, classes, LangChain's tools or OpenAI's dicts.
            tool_choice: None or "auto" lets the model choose, "any", "required" or True forces a call, a tool's name
                that tool, "none" forbids calls. Forced calls follow the schema, with any chat model.
            strict: True: calls of the model's own will follow the schema, too.
            parallel_tool_calls: False: one call at most.

        >>> from langchain_carrel import ChatCarrel
        >>> def weather(city: str) -> str:
        ...     '''The weather of a city.'''
        ...     return "晴"
        >>> with ChatCarrel(model="starter/reader", max_tokens=200) as chat:
        ...     message = chat.bind_tools([weather], tool_choice="any").invoke("北京天气?")
        >>> (message.tool_calls + message.invalid_tool_calls)[0]["name"]
        'weather'

        Raises:
            ValueError: something that LangChain cannot make a tool of. The calls refuse a choice that names no tool.
        """
        options: dict[str, Any] = {"tools": [convert_to_openai_tool(tool, strict=strict) for tool in tools]}
        options |= {} if tool_choice is None else {"tool_choice": tool_choice}
        options |= {} if parallel_tool_calls is None else {"parallel_tool_calls": parallel_tool_calls}
        return self.bind(**options, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model, answering with objects of a pydantic class, or with dicts of a TypedDict or a JSON schema.

        Args:
            schema: what the answer must be.
            method: "json_schema" holds the text to the schema; the model does not read the schema, so say in the
                prompt what is wanted. "function_calling" forces a call of a tool with that schema, which the model
                reads. "json_mode" holds the text to be some JSON object.
            include_raw: ``{"raw", "parsed", "parsing_error"}`` instead of the object alone.
            strict: True closes objects and asks for every property.
            kwargs: options of its calls.

        >>> from langchain_carrel import ChatCarrel
        >>> wet = {"type": "object", "properties": {"wet": {"type": "boolean"}}, "required": ["wet"]}
        >>> schema = {"title": "answer", "additionalProperties": False, **wet}
        >>> with ChatCarrel(model="starter/reader", temperature=0) as chat:
        ...     list(chat.with_structured_output(schema).invoke("水是湿的吗?"))
        ['wet']

        Raises:
            InvalidParamsError: no such method, or ``strict`` with ``json_mode``.
        """
        asked, parser = asking(self, schema, method, strict, kwargs), reading(schema, method)
        return beside_raw(asked, parser) if include_raw else asked | parser
