"""carrel's chat models as a LlamaIndex LLM. Translates and does nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
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
    ToolCallBlock,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.streaming_utils import process_streaming_content_incremental
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import PydanticProgramMode
from llama_index.llms.carrel import _messages as convert
from pydantic import BaseModel, ConfigDict


class Carrel(FunctionCallingLLM, ChatFields):
    """A chat model of carrel, in this process or over HTTP.

    Args:
        model: a folder, a hub name or a bundled ``starter/…`` model, opened here on first use.
        llm: a ``carrel.LLM`` to share; it is never closed.
        base_url: a carrel server; ``Carrel.from_server`` checks it at once.
        context_window: what LlamaIndex may fill, prompt and answer together; None: what the model has.
        temperature, max_tokens, stop, structured_outputs, …: as in ``carrel.SamplingParams``; each may also be given
            to one call. ``response_format`` and, for chats, ``tools`` and ``tool_choice`` are OpenAI's.

    A model's thoughts are a ``ThinkingBlock`` of the message, its calls ``ToolCallBlock``s.

    Example:
        .. code-block:: python

            from llama_index.llms.carrel import Carrel

            with Carrel(model="starter/reader", max_tokens=32) as llm:
                for response in llm.stream_complete("什么是分页注意力？"):
                    print(response.delta, end="")

    >>> from llama_index.llms.carrel import Carrel
    >>> with Carrel(model="starter/reader") as llm:
    ...     llm.complete("水是湿的吗?", structured_outputs={"choice": ["是", "否"]}).text in ("是", "否")
    True

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
            is_function_calling_model=info.calls_tools,
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

    # Tools. Whatever LlamaIndex's agents and programs ask for comes through these two.

    def _prepare_chat_with_tools(  # what the programs give beside: tool_choice, strict
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = [*(chat_history or []), *([] if user_msg is None else [_as_message(user_msg)])]
        if not tools:
            return {"messages": messages, **kwargs}
        specs = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        if strict is not None:
            specs = [{**spec, "function": {**spec["function"], "strict": strict}} for spec in specs]
        choice = tool_choice or ("required" if tool_required else "auto")
        parallel = {"parallel_tool_calls": allow_parallel_tool_calls}
        return {"messages": messages, "tools": specs, "tool_choice": choice, **parallel, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of an answer, or of as much of it as was streamed.

        Raises:
            ValueError: there is none, or one was cut off.
        """
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not calls and error_on_no_tool_call:
            raise ValueError("The model called no tool; tool_required=True makes it call one.")
        return [convert.to_selection(block, ended=response.raw is not None) for block in calls]

    # Objects of a class: the text is held to its schema. Other program modes than the default go LlamaIndex's way.

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """An object of ``output_cls``. The model does not read the schema: say in the prompt what is wanted.

        >>> from llama_index.core.prompts import PromptTemplate
        >>> from llama_index.llms.carrel import Carrel
        >>> from pydantic import BaseModel
        >>> class Wet(BaseModel, extra="forbid"):
        ...     wet: bool
        >>> with Carrel(model="starter/reader", temperature=0) as llm:
        ...     type(llm.structured_predict(Wet, PromptTemplate("{what}是湿的吗?"), what="水")).__name__
        'Wet'

        Raises:
            pydantic.ValidationError: the answer was cut off, or breaks a rule that is not in the schema.
        """
        if not self._holds_forms:
            return super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        response = self.chat(
            self._extend_messages(prompt.format_messages(**prompt_args)), **_form(output_cls, llm_kwargs)
        )
        return output_cls.model_validate_json(response.message.content or "")

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """As ``structured_predict``."""
        if not self._holds_forms:
            return await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        messages = self._extend_messages(prompt.format_messages(**prompt_args))
        response = await self.achat(messages, **_form(output_cls, llm_kwargs))
        return output_cls.model_validate_json(response.message.content or "")

    def _structured_stream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if not self._holds_forms:
            yield from super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
            return
        messages, current = self._extend_messages(prompt.format_messages(**prompt_args)), None
        for response in self.stream_chat(messages, **_form(output_cls, llm_kwargs)):
            current = process_streaming_content_incremental(response, output_cls, current)
            yield current

    async def _structured_astream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if not self._holds_forms:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        messages = self._extend_messages(prompt.format_messages(**prompt_args))
        stream = await self.astream_chat(messages, **_form(output_cls, llm_kwargs))
        return _objects(stream, output_cls)

    @property
    def _holds_forms(self) -> bool:
        return self.pydantic_program_mode == PydanticProgramMode.DEFAULT


def _as_message(message: str | ChatMessage) -> ChatMessage:
    return ChatMessage(message) if isinstance(message, str) else message


def _form(output_cls: type[BaseModel], options: dict[str, Any] | None) -> dict[str, Any]:
    schema = {"name": "answer", "schema": output_cls.model_json_schema()}
    return {**(options or {}), "response_format": {"type": "json_schema", "json_schema": schema}}


async def _objects(stream: ChatResponseAsyncGen, output_cls: type[BaseModel]) -> AsyncGenerator[Any, None]:
    current: Any = None
    async for response in stream:
        current = process_streaming_content_incremental(response, output_cls, current)
        yield current
