"""Log probabilities in the shapes of the two OpenAI routes. Knows the engine's ``Logprob`` and token bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from carrel.outputs import Logprob, LogprobsOnePosition

MIN_LOGPROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot write


class TokenBytes(Protocol):
    def token_bytes(self, token_id: int) -> bytes: ...


def chat_logprobs(
    tokenizer: TokenBytes, token_ids: Sequence[int], positions: Sequence[LogprobsOnePosition], top: int
) -> dict[str, Any]:
    """``{"content": [{token, logprob, bytes, top_logprobs}]}``, one entry a token."""
    content = []
    for token_id, position in zip(token_ids, positions, strict=True):
        best = sorted(position.items(), key=lambda item: item[1].rank or 0)[:top]
        entry = _entry(tokenizer, token_id, position[token_id])
        content.append({**entry, "top_logprobs": [_entry(tokenizer, *item) for item in best]})
    return {"content": content}


def _entry(tokenizer: TokenBytes, token_id: int, logprob: Logprob) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {"token": _text(tokenizer, token_id, logprob), "logprob": _finite(logprob), "bytes": list(data)}


def completion_logprobs(
    tokenizer: TokenBytes,
    token_ids: Sequence[int],
    positions: Sequence[LogprobsOnePosition],
    top: int,
    *,
    offset: int = 0,
) -> dict[str, Any]:
    """The older shape of ``/v1/completions``: four lists side by side. ``offset``: characters before these tokens."""
    tokens, token_logprobs, top_logprobs, offsets = [], [], [], []
    for token_id, position in zip(token_ids, positions, strict=True):
        token = _text(tokenizer, token_id, position[token_id])
        best = sorted(position.items(), key=lambda item: item[1].rank or 0)[:top]
        tokens.append(token)
        token_logprobs.append(_finite(position[token_id]))
        top_logprobs.append({_text(tokenizer, *item): _finite(item[1]) for item in best} if top else None)
        offsets.append(offset)
        offset += len(token)
    return {
        "text_offset": offsets,
        "token_logprobs": token_logprobs,
        "tokens": tokens,
        "top_logprobs": top_logprobs,
    }


def _text(tokenizer: TokenBytes, token_id: int, logprob: Logprob) -> str:
    if logprob.decoded_token is not None:
        return logprob.decoded_token
    return tokenizer.token_bytes(token_id).decode(errors="replace")


def _finite(logprob: Logprob) -> float:
    return max(float(logprob.logprob), MIN_LOGPROB)
