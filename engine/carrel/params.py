"""What a caller may ask of one request. Knows ranges; does not know any model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Literal

from carrel.errors import InvalidParamsError
from carrel.structured_params import StructuredOutputsParams

MAX_LOGPROBS = 20  # OpenAI's limit on top_logprobs
MAX_N = 128
MAX_BIASES = 10_000  # entries of logit_bias, which are added in every step


class RequestOutputKind(Enum):
    """What each streamed :class:`~carrel.outputs.RequestOutput` holds."""

    CUMULATIVE = 0  # all text so far
    DELTA = 1  # only what is new
    FINAL_ONLY = 2  # one output, at the end


def _require(condition: bool, param: str, message: str) -> None:
    if not condition:
        raise InvalidParamsError(f"{param} {message}", param=param)


def _require_cut(cut: int | None) -> None:
    _require(cut is None or cut == -1 or cut >= 1, "truncate_prompt_tokens", f"must be -1 or at least 1, got {cut}.")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample the tokens of one request. The names, defaults and meanings are vLLM's.

    >>> SamplingParams(temperature=0.0, max_tokens=32, stop="\\n").stop
    ('\\n',)

    Raises:
        InvalidParamsError: a value is out of its range; ``error.param`` names it.
    """

    n: int = 1  # completions per prompt
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # nucleus: smallest set whose probability reaches top_p
    top_k: int = 0  # 0 or -1: all tokens
    min_p: float = 0.0  # drop tokens under min_p times the best probability
    presence_penalty: float = 0.0  # on tokens of the output
    frequency_penalty: float = 0.0  # on tokens of the output, per occurrence
    repetition_penalty: float = 1.0  # on tokens of prompt and output
    seed: int | None = None  # same seed and prompt: same text, alone or in a batch
    stop: str | Sequence[str] | None = None  # strings that end the text; stored as a tuple
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16  # None: up to the context length
    min_tokens: int = 0  # no end of sequence before
    logprobs: int | None = None  # this many most likely tokens beside each sampled one
    prompt_logprobs: int | None = None  # the same of the prompt's own tokens, from the second on
    best_of: int | None = None  # generate so many, return the n most likely; None: n
    logit_bias: Mapping[int, float] | None = None  # token id → added to its logit, -100 … 100
    allowed_token_ids: Sequence[int] | None = None  # nothing else is drawn, not even an end that is not among them
    bad_words: Sequence[str] = ()  # texts whose tokens never follow one another
    structured_outputs: StructuredOutputsParams | None = None  # the form that the text must have
    truncate_prompt_tokens: int | None = None  # keep the prompt's last so many; -1: as many as fit; None: all
    skip_special_tokens: bool = True
    output_kind: RequestOutputKind = field(default=RequestOutputKind.CUMULATIVE)

    max_logprobs: ClassVar[int] = MAX_LOGPROBS

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        object.__setattr__(self, "top_k", 0 if self.top_k == -1 else self.top_k)
        object.__setattr__(self, "bad_words", tuple(self.bad_words))
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", {int(token): float(bias) for token, bias in self.logit_bias.items()})
        self._check_counts()
        self._check_ranges()
        self._check_constraints()

    def _check_counts(self) -> None:
        _require(1 <= self.n <= MAX_N, "n", f"must be between 1 and {MAX_N}, got {self.n}.")
        _require(self.top_k >= 0, "top_k", f"must be 0 (off) or at least 1, got {self.top_k}.")
        _require(
            self.max_tokens is None or self.max_tokens >= 1, "max_tokens", f"must be at least 1, got {self.max_tokens}."
        )
        _require(self.min_tokens >= 0, "min_tokens", f"must be at least 0, got {self.min_tokens}.")
        _require(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            f"must be at most max_tokens={self.max_tokens}, got {self.min_tokens}.",
        )
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            message = f"must be between 0 and {self.max_logprobs}, got {value}."
            _require(value is None or 0 <= value <= self.max_logprobs, name, message)
        _require(
            self.best_of is None or self.n <= self.best_of <= MAX_N,
            "best_of",
            f"must be between n={self.n} and {MAX_N}, got {self.best_of}.",
        )
        _require_cut(self.truncate_prompt_tokens)
        _require(all(self.stop_strings), "stop", "must not hold an empty string.")

    def _check_ranges(self) -> None:
        numbers = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
        for name in numbers:
            _require(math.isfinite(getattr(self, name)), name, "must be a finite number.")
        _require(self.temperature >= 0.0, "temperature", f"must be at least 0, got {self.temperature}.")
        _require(0.0 < self.top_p <= 1.0, "top_p", f"must be in (0, 1], got {self.top_p}.")
        _require(0.0 <= self.min_p <= 1.0, "min_p", f"must be in [0, 1], got {self.min_p}.")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-2.0 <= value <= 2.0, name, f"must be in [-2, 2], got {value}.")
        _require(
            self.repetition_penalty > 0.0, "repetition_penalty", f"must be above 0, got {self.repetition_penalty}."
        )

    def _check_constraints(self) -> None:
        num_biases = len(self.logit_bias or ())
        _require(
            num_biases <= MAX_BIASES,
            "logit_bias",
            f"must hold at most {MAX_BIASES} entries, got {num_biases}; to bar most tokens, give allowed_token_ids.",
        )
        for token, bias in (self.logit_bias or {}).items():
            _require(-100.0 <= bias <= 100.0, "logit_bias", f"must be in [-100, 100], got {bias} for token {token}.")
        _require(self.allowed_token_ids is None or len(self.allowed_token_ids) > 0, "allowed_token_ids", "is empty.")
        _require(all(self.bad_words), "bad_words", "must not hold an empty string.")
        _require(
            self.structured_outputs is None or not self.ignore_eos,
            "ignore_eos",
            "does not go with structured_outputs: the text ends where its form does.",
        )

    @property
    def num_sequences(self) -> int:
        """Sequences to generate for a prompt."""
        return self.n if self.best_of is None else self.best_of

    @property
    def ranks_sequences(self) -> bool:
        """Whether more sequences are generated than returned."""
        return self.num_sequences > self.n

    @property
    def has_constraints(self) -> bool:
        """Whether some tokens may not be drawn, or are drawn more or less often than the model says."""
        return bool(
            self.logit_bias
            or self.allowed_token_ids is not None
            or self.bad_words
            or self.structured_outputs is not None
        )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as the tuple it is stored as."""
        assert isinstance(self.stop, tuple), "__post_init__ stores stop as a tuple"
        return self.stop

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0


@dataclass(frozen=True, kw_only=True)
class PoolingParams:
    """How to turn one input into a vector or a score.

    >>> PoolingParams(input_type="query").input_type
    'query'
    """

    dimensions: int | None = None  # keep the first components, then renormalise (Matryoshka models)
    normalize: bool | None = None  # None: what the model's files say
    input_type: Literal["query", "document"] | None = None  # chooses the model's prompt
    prompt_name: str | None = None  # a prompt of config_sentence_transformers.json by name
    instruction: str | None = None  # what the vectors are for; stands before each input instead of the model's prompt
    add_special_tokens: bool = True  # those that the model's tokenizer puts around a text
    truncate_prompt_tokens: int | None = None  # cut longer inputs to this; -1: to the model's limit; None: an error
    truncation_side: Literal["left", "right"] = "right"  # where they are cut

    def __post_init__(self) -> None:
        _require(
            self.dimensions is None or self.dimensions >= 1, "dimensions", f"must be at least 1, got {self.dimensions}."
        )
        _require(
            self.instruction is None or self.prompt_name is None,
            "instruction",
            "takes the place of the model's prompts, so prompt_name does not go with it.",
        )
        _require(self.truncation_side in ("left", "right"), "truncation_side", "must be left or right.")
        _require_cut(self.truncate_prompt_tokens)
