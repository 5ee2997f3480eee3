"""What a caller may ask of a beam search. Knows ranges; does not know how beams are found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from carrel.errors import InvalidParamsError

MAX_BEAM_WIDTH = 128


@dataclass(frozen=True, kw_only=True)
class BeamSearchParams:
    """How to search. The names, defaults and meanings are vLLM's.

    A sequence's score is its log probability divided by ``length ** length_penalty``, where the length counts the
    prompt's tokens too, as in vLLM.

    >>> BeamSearchParams(beam_width=4, max_tokens=32).length_penalty
    1.0

    Raises:
        InvalidParamsError: a value is out of its range; ``error.param`` names it.
    """

    beam_width: int  # sequences that are followed, and returned
    max_tokens: int  # of each sequence
    ignore_eos: bool = False
    temperature: float = 0.0  # 0 or 1: sequences are ranked by the model's own probabilities
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False  # keep the end-of-sequence token

    def __post_init__(self) -> None:
        if not 1 <= self.beam_width <= MAX_BEAM_WIDTH:
            message = f"beam_width must be between 1 and {MAX_BEAM_WIDTH}, got {self.beam_width}."
            raise InvalidParamsError(message, param="beam_width")
        if self.max_tokens < 1:
            raise InvalidParamsError(f"max_tokens must be at least 1, got {self.max_tokens}.", param="max_tokens")
        if self.temperature not in (0.0, 1.0):
            message = "Beam search ranks by the model's own probabilities, whatever the temperature; leave it out."
            raise InvalidParamsError(message, param="temperature")
        if not math.isfinite(self.length_penalty):
            raise InvalidParamsError("length_penalty must be a finite number.", param="length_penalty")
