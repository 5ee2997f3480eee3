"""Turns what a caller gives into engine requests, and refuses what cannot work. Shared by the sync and async faces.

Knows tokenizers, templates and limits of a hosted model; knows no thread and no event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

from carrel.chat_messages import Message
from carrel.chat_options import ChatOptions
from carrel.chat_template import ChatTemplate
from carrel.errors import ContextLengthError, InvalidParamsError, RequestError
from carrel.hosted_model import HostedModel
from carrel.params import RequestOutputKind, SamplingParams
from carrel.parsers.base import AnswerFormat
from carrel.request import Request
from carrel.request_constraints import bad_words_token_ids, check_vocabulary, compile_form
from carrel.tokenizer_files import SPECIAL_NAMES


class TokensPrompt(TypedDict):
    """A prompt that is tokens already."""

    prompt_token_ids: list[int]


class TextPrompt(TypedDict):
    """A prompt that is text, in vLLM's long form. ``add_special_tokens`` False: nothing is put before or behind it."""

    prompt: str
    add_special_tokens: NotRequired[bool]


Prompt = str | Sequence[int] | TokensPrompt | TextPrompt
Prompts = Prompt | Sequence[str] | Sequence[Sequence[int]] | Sequence[TokensPrompt | TextPrompt]
Messages = Sequence[Message]
PROMPT_FORMS = "A prompt is a string, a list of token ids, {'prompt_token_ids': [...]} or {'prompt': '...'}."


@dataclass(frozen=True)
class TokenizedPrompt:
    """Text, if there was one, and its tokens."""

    text: str | None
    token_ids: list[int]
    truncated: bool = False


def as_prompts(prompts: Prompts) -> list[Prompt]:
    """One prompt or many, as a list.

    >>> as_prompts("你好"), as_prompts([1, 2]), as_prompts(["a", "b"])
    (['你好'], [[1, 2]], ['a', 'b'])
    """
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise RequestError(f"{PROMPT_FORMS} Got {type(prompts).__name__}.", param="prompt")
    items: list[Any] = list(prompts)
    if not items:
        raise RequestError("There is no prompt: the list is empty.", param="prompt")
    return [items] if isinstance(items[0], int) else items


def as_conversations(messages: Messages | Sequence[Messages]) -> list[Messages]:
    """One conversation or many, as a list."""
    items: list[Any] = list(messages)
    if not items:
        raise RequestError("messages must not be empty.", param="messages")
    return [items] if isinstance(items[0], Mapping) else items


def tokenize_prompt(model: HostedModel, prompt: Prompt, *, add_special_tokens: bool = True) -> TokenizedPrompt:
    """Tokens of one prompt.

    Raises:
        RequestError: it is empty, or it holds something that is no token of this model.
        ContextLengthError: it is a text to go on from, and so long that it cannot fit however it is tokenized.
    """
    text = text_of(prompt)
    if text is not None:
        _check_characters(model, text)
        special = add_special_tokens and (
            not isinstance(prompt, Mapping) or prompt.get("add_special_tokens") is not False
        )
        token_ids = model.tokenizer.encode(text, add_special_tokens=special)
        return TokenizedPrompt(text, check_token_ids(model, token_ids))
    ids = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else prompt
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes):
        raise RequestError(f"{PROMPT_FORMS} Got {type(prompt).__name__}.", param="prompt")
    return TokenizedPrompt(None, check_token_ids(model, list(ids)))


def _check_characters(model: HostedModel, text: str) -> None:
    """Megabytes are refused before they are tokenized, which would take many seconds."""
    if model.task != "chat" or len(text) <= model.max_model_len:
        return
    most, limit = model.max_prompt_characters, model.max_model_len
    if most is not None and len(text) > most:
        raise ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, your prompt has {len(text)} characters, "
            f"and more than {most} cannot fit. Shorten the prompt.",
            num_tokens=len(text) * limit // most,
            max_model_len=limit,
        )


def text_of(prompt: Any) -> str | None:
    """The text of a prompt; None if it is tokens already."""
    text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
    return text if isinstance(text, str) else None


def check_token_ids(model: HostedModel, token_ids: list[int]) -> list[int]:
    """The ids, if they can be computed: at least one, all in the vocabulary."""
    if not token_ids:
        raise RequestError("The prompt is empty. Give at least one token.", param="prompt")
    size = model.config.vocab_size
    for token_id in token_ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < size:
            raise RequestError(
                f"The prompt holds {token_id!r}, which is no token id of {model.key} (0 … {size - 1}).", param="prompt"
            )
    return token_ids


def tokenize_chat(
    model: HostedModel,
    messages: Messages,
    options: ChatOptions | None = None,
) -> TokenizedPrompt:
    """Text and tokens of a conversation. The template writes the special tokens itself, so none are added.

    Raises:
        ChatTemplateError: the model has no template, or it refused the messages.
    """
    options = options or ChatOptions()
    text = _template_of(model, options).render(
        messages,
        options.tools,
        add_generation_prompt=options.add_generation_prompt,
        continue_final_message=options.continue_final_message,
        **_template_kwargs(options.chat_template_kwargs),
    )
    return tokenize_prompt(model, text, add_special_tokens=False)


def _template_of(model: HostedModel, options: ChatOptions) -> ChatTemplate:
    if options.chat_template:
        return ChatTemplate(options.chat_template, model.tokenizer.special_tokens)
    return model.require_chat_template()


def _template_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    reserved = {"messages", "tools", "add_generation_prompt", "continue_final_message", *SPECIAL_NAMES} & kwargs.keys()
    if reserved:
        raise InvalidParamsError(
            f"chat_template_kwargs must not hold {', '.join(sorted(reserved))}: that is set elsewhere.",
            param="chat_template_kwargs",
        )
    return dict(kwargs)


def resolve_max_tokens(model: HostedModel, num_prompt_tokens: int, max_tokens: int | None) -> int:
    """How many tokens may be generated; None is the rest of the context.

    Raises:
        ContextLengthError: the prompt, or the prompt with ``max_tokens``, is longer than the context.
    """
    limit = model.max_model_len
    room = limit - num_prompt_tokens
    if room < 1:
        raise ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, your prompt has {num_prompt_tokens} "
            "tokens, which leaves no room to answer. Shorten the prompt.",
            num_tokens=num_prompt_tokens,
            max_model_len=limit,
        )
    if max_tokens is None or max_tokens <= room:
        return room if max_tokens is None else max_tokens
    raise ContextLengthError(
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{num_prompt_tokens + max_tokens} tokens ({num_prompt_tokens} in the prompt, {max_tokens} in the completion). "
        f"Lower max_tokens to {room}, or shorten the prompt.",
        num_tokens=num_prompt_tokens + max_tokens,
        max_model_len=limit,
        param="max_tokens",
    )


def cut_prompt(model: HostedModel, prompt: TokenizedPrompt, params: SamplingParams) -> TokenizedPrompt:
    """The end of the prompt, as far as ``truncate_prompt_tokens`` says; -1: what ``max_tokens`` leaves of the context.

    Raises:
        ContextLengthError: ``max_tokens`` leaves nothing.
    """
    cut = params.truncate_prompt_tokens
    if cut == -1:
        resolve_max_tokens(model, 1, params.max_tokens)
        cut = model.max_model_len - (params.max_tokens or 1)
    if cut is None or len(prompt.token_ids) <= cut:
        return prompt
    return replace(prompt, token_ids=prompt.token_ids[-cut:], truncated=True)


def generation_requests(
    model: HostedModel,
    prompt: TokenizedPrompt,
    params: SamplingParams,
    *,
    request_id: str,
    seed: int,
    priority: int = 0,
    cache_salt: str | None = None,
    answer: AnswerFormat | None = None,
) -> list[Request]:
    """The child requests of one prompt, ``best_of`` or else ``n``. Child ``i`` samples with ``seed + i``.

    The first alone computes the prompt's log probabilities. ``answer``: the form that a chat's answer must have, too.
    """
    if model.task != "chat":
        raise InvalidParamsError(f"{model.key} is a model for {model.task}; it cannot generate.", param="model")
    max_tokens = resolve_max_tokens(model, len(prompt.token_ids), params.max_tokens)
    if params.min_tokens > max_tokens:
        raise InvalidParamsError(
            f"min_tokens must be at most {max_tokens}, the rest of the context, got {params.min_tokens}.",
            param="min_tokens",
        )
    _check_best_of(params)
    check_vocabulary(model, params)
    bad_words = bad_words_token_ids(model.tokenizer, params.bad_words) if params.bad_words else ()
    grammar = compile_form(model, params, answer)
    child = replace(params, logprobs=0) if params.ranks_sequences and params.logprobs is None else params
    others = child if child.prompt_logprobs is None else replace(child, prompt_logprobs=None)
    return [
        Request(
            request_id=request_id if params.num_sequences == 1 else f"{i}_{request_id}",
            model=model.runner_key,
            prompt_token_ids=prompt.token_ids,
            sampling_params=child if i == 0 else others,
            eos_token_ids=model.eos_token_ids,
            max_tokens=max_tokens,
            seed=seed + i,
            grammar=grammar,
            bad_words_token_ids=bad_words,
            priority=priority,
            cache_salt=cache_salt,
        )
        for i in range(params.num_sequences)
    ]


def _check_best_of(params: SamplingParams) -> None:
    if params.ranks_sequences and params.output_kind is not RequestOutputKind.FINAL_ONLY:
        raise InvalidParamsError(
            f"Which n={params.n} of best_of={params.best_of} are the best is known at the end alone, so they cannot be "
            "streamed; ask for the final output alone (output_kind FINAL_ONLY, stream: false).",
            param="best_of",
        )
