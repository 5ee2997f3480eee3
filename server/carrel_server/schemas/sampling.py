"""The sampling fields that chat and completions share. Knows names and types; ranges are ``SamplingParams``' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any, ClassVar

from carrel.errors import InvalidParamsError
from carrel.params import RequestOutputKind, SamplingParams
from carrel.structured_params import StructuredOutputsParams
from pydantic import Field

from carrel_server.schemas.base import Body
from carrel_server.schemas.structured import form_named, of_response_format, of_structured_outputs, one_form

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
        "logits_processors": (),
        "spaces_between_special_tokens": (True,),
        "guided_whitespace_pattern": (),
        "kv_transfer_params": (),
        "vllm_xargs": (),
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
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    use_beam_search: bool = False  # n is the number of beams
    length_penalty: float = 1.0  # of beams: their score is divided by length ** length_penalty
    truncate_prompt_tokens: int | None = None  # keep the last so many; -1: as many as fit
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False  # in logprobs: "token_id:5" for the text of token 5
    request_id: str | None = Field(default=None, max_length=128)  # every chunk repeats it
    priority: int = 0  # lower goes first
    cache_salt: str | None = None  # requests of other salts share no prefix cache

    def check_stream(self) -> None:
        """
        Raises:
            InvalidParamsError: ``stream_options`` without ``stream``, or a stream of what is known at the end alone.
        """
        if self.stream_options is not None and not self.stream:
            raise InvalidParamsError("stream_options needs stream: true.", param="stream_options")
        at_the_end = {
            "best_of": self.best_of is not None and self.best_of != (self.n or 1),
            "prompt_logprobs": bool(self.prompt_logprobs),
            "use_beam_search": self.use_beam_search,
        }
        for name, asked in at_the_end.items():
            if self.stream and asked:
                raise InvalidParamsError(f"{name} does not go with stream: true.", param=name)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling_params(
        self, defaults: Mapping[str, Any], *, max_tokens: int | None, logprobs: int | None
    ) -> SamplingParams:
        """What was sent, over the model's defaults, over OpenAI's.

        Raises:
            InvalidParamsError: a value out of its range, or more than one form for the answer.
        """
        names = SAMPLING_FIELDS & SamplingBody.model_fields.keys()
        sent = {name: value for name in names if (value := getattr(self, name)) is not None}
        kind = RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY
        fixed = {"max_tokens": max_tokens, "logprobs": logprobs, "output_kind": kind}
        return SamplingParams(**{**defaults, **sent, **fixed, "structured_outputs": self.form()})

    def form(self) -> StructuredOutputsParams | None:
        """The form that the answer must have, from whichever field asks for one."""
        return one_form(self._forms)

    @property
    def form_field(self) -> str:
        """The field that asks for the answer's form."""
        return next((name for name, form in self._forms.items() if form is not None), "structured_outputs")

    @cached_property
    def _forms(self) -> dict[str, StructuredOutputsParams | None]:
        forms = {
            "response_format": of_response_format(self.response_format),
            "structured_outputs": of_structured_outputs(self.structured_outputs),
        }
        for name in ("json", "regex", "choice", "grammar"):
            field = f"guided_{name}"
            with form_named(field):
                forms[field] = of_structured_outputs({name: getattr(self, field)})
        return forms


SAMPLING_FIELDS = frozenset(field.name for field in fields(SamplingParams)) - {
    "max_tokens",
    "logprobs",
    "output_kind",
    "structured_outputs",
}
