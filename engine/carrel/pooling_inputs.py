"""Inputs of embedders, rerankers and classifiers as tokens: the prompt that the model knows, the text, what is cut.

Knows prompts and limits of a hosted model; knows nothing of what becomes of the tokens.
"""

from __future__ import annotations

from carrel.errors import ContextLengthError, InvalidParamsError
from carrel.hosted_model import HostedModel
from carrel.inputs import Prompt, TokenizedPrompt, check_token_ids, text_of, tokenize_prompt
from carrel.params import PoolingParams

INSTRUCT = "Instruct: "  # E5-instruct, Qwen3-Embedding, GTE-Qwen2: "Instruct: …\nQuery: "
QUERY_PROMPTS, DOCUMENT_PROMPTS = ("query",), ("document", "passage")  # names in config_sentence_transformers.json


def pooling_prompt(model: HostedModel, prompt: Prompt, params: PoolingParams) -> TokenizedPrompt:
    """Tokens of one input, with the model's prompt for its kind before it, and cut if ``params`` ask for that."""
    limit = pooling_limit(model, params.truncate_prompt_tokens)
    text = text_of(prompt)
    if text is not None:
        return _read_text(model, _prompt_prefix(model, params) + text, limit, params)
    token_ids = tokenize_prompt(model, prompt).token_ids
    if len(token_ids) <= limit:
        return TokenizedPrompt(None, token_ids)
    if params.truncate_prompt_tokens is None:
        raise _too_long(limit, len(token_ids))
    kept = token_ids[:limit] if params.truncation_side == "right" else token_ids[-limit:]
    return TokenizedPrompt(None, kept, truncated=True)


def _read_text(model: HostedModel, text: str, limit: int, params: PoolingParams) -> TokenizedPrompt:
    """Of a text of megabytes no more is tokenized than is needed to cut it, or to see that it is too long."""
    tokenizer, special, side = model.tokenizer, params.add_special_tokens, params.truncation_side
    room = limit - (tokenizer.num_special_tokens if special else 0)
    cuts = params.truncate_prompt_tokens is not None
    encoding = tokenizer.begin(text, max(room, 1) if side == "right" or not cuts else None)
    num_tokens = len(encoding.ids) + limit - room
    truncated = num_tokens > limit
    if truncated and not cuts:
        raise _too_long(limit, num_tokens)
    if truncated:
        if room < 1:
            message = (
                f"truncate_prompt_tokens must be above {limit - room}, or nothing of the text is left, got {limit}."
            )
            raise InvalidParamsError(message, param="truncate_prompt_tokens")
        encoding.truncate(room, direction=side)
    token_ids = tokenizer.finish(encoding, add_special_tokens=special)
    return TokenizedPrompt(text, check_token_ids(model, token_ids), truncated=truncated)


def _too_long(limit: int, num_tokens: int) -> ContextLengthError:
    """``num_tokens`` of a very long text are those of its beginning."""
    return ContextLengthError(
        f"This model's maximum context length is {limit} tokens. However, the input has {num_tokens} tokens"
        f"{' or more' if num_tokens > 2 * limit else ''}. Shorten it, or set truncate_prompt_tokens=-1 to cut it.",
        num_tokens=num_tokens,
        max_model_len=limit,
        param="input",
    )


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
