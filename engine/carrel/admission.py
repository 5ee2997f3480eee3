"""Which requests can never be computed. They are refused before they are accepted, for nothing may wait for ever."""

from __future__ import annotations

from array import array

from carrel.errors import CapacityError, ContextLengthError, InvalidParamsError
from carrel.kv_cache import KVCacheManager
from carrel.request import Request


def check_chat_fits(request: Request, kv_cache: KVCacheManager) -> None:
    """Raise ContextLengthError or CapacityError if prompt and ``max_tokens`` exceed the context or the KV cache."""
    _check_token_ids(request)
    max_len, num_tokens = kv_cache.max_model_len, request.num_prompt_tokens + request.max_tokens
    if num_tokens > max_len:
        raise ContextLengthError(
            f"This model's maximum context length is {max_len} tokens. However, you requested {num_tokens} tokens "
            f"({request.num_prompt_tokens} in the prompt, {request.max_tokens} for the completion). Reduce one.",
            num_tokens=num_tokens,
            max_model_len=max_len,
        )
    if not kv_cache.fits(num_tokens - 1):  # the last token is never fed back
        raise CapacityError(
            f"The request needs room for {num_tokens - 1} tokens, but the KV cache holds "
            f"{kv_cache.num_blocks * kv_cache.block_size}. Lower max_tokens, shorten the prompt, or give the KV cache "
            f"more memory with kv_cache_memory_bytes."
        )


def check_pooling_fits(request: Request, max_len: int) -> None:
    """Raise ContextLengthError if the input is longer than ``max_len`` tokens."""
    _check_token_ids(request)
    if request.num_prompt_tokens > max_len:
        raise ContextLengthError(
            f"This model's maximum context length is {max_len} tokens. However, the input has "
            f"{request.num_prompt_tokens} tokens. Shorten it, or set truncate_prompt_tokens=-1 to cut it.",
            num_tokens=request.num_prompt_tokens,
            max_model_len=max_len,
        )


def _check_token_ids(request: Request) -> None:
    try:
        array("I", request.prompt_token_ids)  # the quickest look at all of them: integers of 32 bits, none negative
    except (TypeError, OverflowError) as error:
        raise InvalidParamsError(f"prompt_token_ids must be token ids: {error}.", param="prompt_token_ids") from error
