"""Arguments of a face's calls, brought into the engine's form. Knows no host and no model."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from carrel.chat_options import ChatOptions, Tool, ToolChoice
from carrel.config import ModelSpec
from carrel.errors import InvalidParamsError, RequestError
from carrel.params import SamplingParams

INLINE_CHARACTERS = 1000  # so few are tokenized faster than a thread wakes up


def model_specs(
    model: str | None,
    embedding_model: str | None,
    reranker_model: str | None,
    chat_template: str | None = None,
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
) -> list[ModelSpec]:
    """The models that a call names. The task of ``model`` is read from its files."""
    chat = ModelSpec(
        name=model or "",
        chat_template=chat_template,
        tool_call_parser=tool_call_parser,
        reasoning_parser=reasoning_parser,
    )
    for name in ("chat_template", "tool_call_parser", "reasoning_parser"):
        if model is None and getattr(chat, name) is not None:
            raise InvalidParamsError(f"{name} needs a model.", param=name)
    specs = [] if model is None else [chat]
    if embedding_model is not None:
        specs.append(ModelSpec(name=embedding_model, task="embedding"))
    if reranker_model is not None:
        specs.append(ModelSpec(name=reranker_model, task="rerank"))
    return specs


def per_prompt(
    params: SamplingParams | Sequence[SamplingParams | None] | None, num_prompts: int
) -> list[SamplingParams | None]:
    """Sampling parameters for each prompt: one for all, or one for each."""
    if params is None or isinstance(params, SamplingParams):
        return [params] * num_prompts
    if len(params) != num_prompts:
        raise RequestError(
            f"There are {num_prompts} prompts and {len(params)} sampling_params; give one for all, or one for each.",
            param="sampling_params",
        )
    return list(params)


def with_kind(params: SamplingParams | None, kind: Any) -> SamplingParams:
    """The same parameters with another kind of output."""
    return replace(params or SamplingParams(), output_kind=kind)


def chat_options(
    tools: Sequence[Tool] | None,
    tool_choice: ToolChoice,
    parallel_tool_calls: bool,
    chat_template: str | None,
    chat_template_kwargs: Mapping[str, Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> ChatOptions:
    """The options of a chat call, out of the arguments of a face."""
    return ChatOptions(
        tools=tools or (),
        tool_choice=tool_choice,
        parallel_tool_calls=parallel_tool_calls,
        chat_template=chat_template,
        chat_template_kwargs=chat_template_kwargs or {},
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )


def new_request_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


def num_characters(prompts: Any) -> int:
    """A size for a text or for a list of texts and token ids; that of anything else is more than any limit.

    >>> num_characters("河水"), num_characters(["河水", [1, 2, 3]])
    (2, 5)
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return len(prompts) if isinstance(prompts, str) else INLINE_CHARACTERS + 1
    return sum(len(prompt) if isinstance(prompt, str | list) else INLINE_CHARACTERS + 1 for prompt in prompts)
