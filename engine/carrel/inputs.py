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
from carrel.params import PoolingParams, RequestOutputKind, SamplingParams
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
INSTRUCT = "Instruct: "  # E5-instruct, Qwen3-Embedding, GTE-Qwen2: "Instruct: …\nQuery: "
QUERY_PROMPTS, DOCUMENT_PROMPTS = ("query",), ("document", "passage")  # names in config_sentence_transformers.json


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
    """
    text = _text_of(prompt)
    if text is not None:
        special = add_special_tokens and (
            not isinstance(prompt, Mapping) or prompt.get("add_special_tokens") is not False
        )
        token_ids = model.tokenizer.encode(text, add_special_tokens=special)
        return TokenizedPrompt(text, check_token_ids(model, token_ids))
    ids = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else prompt
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes):
        raise RequestError(f"{PROMPT_FORMS} Got {type(prompt).__name__}.", param="prompt")
    return TokenizedPrompt(None, check_token_ids(model, list(ids)))


def _text_of(prompt: Any) -> str | None:
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


def pooling_prompt(model: HostedModel, prompt: Prompt, params: PoolingParams) -> TokenizedPrompt:
    """Tokens of one input, with the model's prompt for its kind before it, and cut if ``params`` ask for that."""
    text = _text_of(prompt)
    if text is not None:
        text = _prompt_prefix(model, params) + text
    special = params.add_special_tokens
    tokenized = tokenize_prompt(model, prompt if text is None else text, add_special_tokens=special)
    limit = pooling_limit(model, params.truncate_prompt_tokens)
    if len(tokenized.token_ids) <= limit:
        return tokenized
    if params.truncate_prompt_tokens is None:
        raise ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, the input has "
            f"{len(tokenized.token_ids)} tokens. Shorten it, or set truncate_prompt_tokens=-1 to cut it.",
            num_tokens=len(tokenized.token_ids),
            max_model_len=limit,
            param="input",
        )
    side = params.truncation_side
    if text is None:
        kept = tokenized.token_ids[:limit] if side == "right" else tokenized.token_ids[-limit:]
        return TokenizedPrompt(None, kept, truncated=True)
    num_special = model.tokenizer.num_special_tokens if special else 0
    if limit <= num_special:
        message = f"truncate_prompt_tokens must be above {num_special}, or nothing of the text is left, got {limit}."
        raise InvalidParamsError(message, param="truncate_prompt_tokens")
    kept = model.tokenizer.encode(text, add_special_tokens=special, max_length=limit, truncation_side=side)
    return TokenizedPrompt(text, kept, truncated=True)


def pooling_limit(model: HostedModel, truncate_prompt_tokens: int | None) -> int:
    """Tokens that an input may have, or is cut to."""
    limit = model.max_model_len
    return limit if truncate_prompt_tokens in (None, -1) else min(limit, truncate_prompt_tokens or limit)


def _prompt_prefix(model: HostedModel, params: PoolingParams) -> str:
    pooling = model.config.pooling
    prompts = pooling.prompts if pooling else {}
    if params.instruction is not None:
        return _instructed(params.instruction, next((prompts[name] for name in QUERY_PROMPTS if name in prompts), ""))
    if params.prompt_name is not None:
        if params.prompt_name not in prompts:
            known = ", ".join(prompts) or "none"
            raise InvalidParamsError(
                f"{model.key} has no prompt named {params.prompt_name!r}; it has: {known}.", param="prompt_name"
            )
        return prompts[params.prompt_name]
    names = {"query": QUERY_PROMPTS, "document": DOCUMENT_PROMPTS, None: ()}[params.input_type]
    found = next((prompts[name] for name in names if name in prompts), None)
    if found is not None or params.input_type is not None:
        return found or ""
    return prompts.get(pooling.default_prompt_name or "", "") if pooling else ""


def _instructed(instruction: str, query_prompt: str) -> str:
    """The instruction as the model was trained to read one, which its own prompt for queries shows.

    >>> _instructed("Find books.", "Instruct: Find pages.\\nQuery:")
    'Instruct: Find books.\\nQuery:'
    """
    before, found, rest = query_prompt.partition(INSTRUCT)
    if not found:
        return instruction
    return before + found + instruction + "".join(rest.partition("\n")[1:])
