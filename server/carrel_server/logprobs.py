"""Log probabilities in the shapes of the two OpenAI routes. Knows the engine's ``Logprob`` and token bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from carrel.outputs import Logprob, LogprobsOnePosition, RequestOutput

MIN_LOGPROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot write


class TokenBytes(Protocol):
    def token_bytes(self, token_id: int) -> bytes: ...


def chat_logprobs(
    tokenizer: TokenBytes,
    token_ids: Sequence[int],
    positions: Sequence[LogprobsOnePosition],
    top: int,
    *,
    as_ids: bool = False,
) -> dict[str, Any]:
    """``content`` has an entry ``{token, logprob, bytes, top_logprobs}`` a token; ``as_ids``: "token_id:5" as token."""
    content = []
    for token_id, position in zip(token_ids, positions, strict=True):
        best = sorted(position.items(), key=lambda item: item[1].rank or 0)[:top]
        entry = _entry(tokenizer, token_id, position[token_id], as_ids)
        content.append({**entry, "top_logprobs": [_entry(tokenizer, *item, as_ids) for item in best]})
    return {"content": content, "refusal": None}


def _entry(tokenizer: TokenBytes, token_id: int, logprob: Logprob, as_ids: bool) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    token = _text(tokenizer, token_id, logprob, as_ids)
    return {"token": token, "logprob": _finite(logprob), "bytes": list(data)}


def prompt_logprobs(positions: Sequence[LogprobsOnePosition | None]) -> list[dict[str, Any] | None]:
    """vLLM's shape: ``{"5": {logprob, rank, decoded_token}}`` for each token of the prompt; null for the first."""
    return [
        None if position is None else {str(token_id): _vllm(entry) for token_id, entry in position.items()}
        for position in positions
    ]


def _vllm(logprob: Logprob) -> dict[str, Any]:
    return {"logprob": _finite(logprob), "rank": logprob.rank, "decoded_token": logprob.decoded_token}


def completion_logprobs(
    tokenizer: TokenBytes,
    token_ids: Sequence[int],
    positions: Sequence[LogprobsOnePosition | None],
    top: int,
    *,
    offset: int = 0,
    as_ids: bool = False,
) -> dict[str, Any]:
    """The older shape of ``/v1/completions``: four lists side by side. ``offset``: characters before these tokens.

    A prompt's first token has no log probability. The token itself stands among the ``top``, or beside them.
    """
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    offsets = []
    for token_id, position in zip(token_ids, positions, strict=True):
        entries = position or {token_id: Logprob(0.0)}
        tokens.append(_text(tokenizer, token_id, entries[token_id], as_ids))
        token_logprobs.append(None if position is None else _finite(position[token_id]))
        best = sorted(entries.items(), key=lambda item: item[1].rank or 0)[:top]
        shown = {_text(tokenizer, *item, as_ids): _finite(item[1]) for item in [*best, (token_id, entries[token_id])]}
        top_logprobs.append(shown if top and position is not None else None)
        offsets.append(offset)
        offset += len(tokens[-1])
    return {
        "text_offset": offsets,
        "token_logprobs": token_logprobs,
        "tokens": tokens,
        "top_logprobs": top_logprobs,
    }


def _text(tokenizer: TokenBytes, token_id: int, logprob: Logprob, as_ids: bool) -> str:
    if as_ids:
        return f"token_id:{token_id}"
    if logprob.decoded_token is not None:
        return logprob.decoded_token
    return tokenizer.token_bytes(token_id).decode(errors="replace")


def _finite(logprob: Logprob) -> float:
    return max(float(logprob.logprob), MIN_LOGPROB)


def num_entries(output: RequestOutput, logprobs: int | None) -> int:
    """Tokens of an answer with the log probabilities of each: how much there is to write."""
    num_tokens = sum(len(choice.token_ids) for choice in output.outputs)
    in_prompt = sum(len(position or ()) for position in output.prompt_logprobs or ())
    return num_tokens * (1 + (logprobs or 0)) + in_prompt
