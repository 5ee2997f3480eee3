"""The sampling fields that chat and completions share. Knows names and types; ranges are ``SamplingParams``' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from carrel.errors import InvalidParamsError
from carrel.params import RequestOutputKind, SamplingParams

from carrel_server.schemas.base import Body

NEUTRAL = frozenset(
    {
        "user",
        "model",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "request_id",
    }
)


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    neutral: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})


class SamplingBody(Body):
    """Fields of OpenAI and vLLM that decide how tokens are drawn. None: not sent."""

    neutral: ClassVar[frozenset[str]] = NEUTRAL
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "logit_bias": (),
        "logits_processors": (),
        "allowed_token_ids": (),
        "bad_words": (),
        "prompt_logprobs": (),
        "return_token_ids": (),
        "return_tokens_as_token_ids": (),
        "use_beam_search": (),
        "truncate_prompt_tokens": (),
        "spaces_between_special_tokens": (True,),
        "length_penalty": (1, 1.0),
        "structured_outputs": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "kv_transfer_params": (),
        "vllm_xargs": (),
        "response_format": ({"type": "text"},),
    }

    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    priority: int = 0  # lower goes first
    cache_salt: str | None = None  # requests of other salts share no prefix cache

    def check_stream(self) -> None:
        """
        Raises:
            InvalidParamsError: ``stream_options`` without ``stream``, or ``best_of`` that differs from ``n``.
        """
        if self.stream_options is not None and not self.stream:
            raise InvalidParamsError("stream_options needs stream: true.", param="stream_options")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidParamsError("best_of other than n is not supported by carrel yet.", param="best_of")

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling_params(
        self, defaults: Mapping[str, Any], *, max_tokens: int | None, logprobs: int | None
    ) -> SamplingParams:
        """What was sent, over the model's defaults, over OpenAI's."""
        names = SAMPLING_FIELDS & SamplingBody.model_fields.keys()
        sent = {name: value for name in names if (value := getattr(self, name)) is not None}
        kind = RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY
        fixed = {"max_tokens": max_tokens, "logprobs": logprobs, "output_kind": kind}
        return SamplingParams(**{**defaults, **sent, **fixed})


SAMPLING_FIELDS = frozenset(SamplingParams.__dataclass_fields__) - {"max_tokens", "logprobs", "output_kind"}
