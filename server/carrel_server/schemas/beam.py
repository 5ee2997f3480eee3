"""Beam search in the fields of a sampling body. Knows which fields mean something to it; refuses the others."""

from __future__ import annotations

from carrel.beam_params import BeamSearchParams
from carrel.errors import InvalidParamsError

from carrel_server.schemas.sampling import SAMPLING_FIELDS, SamplingBody

MEANS_SOMETHING = frozenset({"n", "ignore_eos", "include_stop_str_in_output"})
# Of sampling, and nothing is sampled. Clients send their defaults with every request: passed over, as in vLLM.
MEANS_NOTHING = frozenset({"seed", "temperature", "top_p", "top_k", "min_p"})
NEUTRAL_VALUES = {"skip_special_tokens": True, "repetition_penalty": 1.0}


def beam_params(body: SamplingBody, max_tokens: int) -> BeamSearchParams:
    """``n`` is the number of beams.

    Raises:
        InvalidParamsError: a field that beams cannot follow, or a value out of its range.
    """
    for name in sorted(SAMPLING_FIELDS - MEANS_SOMETHING - MEANS_NOTHING):
        value = getattr(body, name)
        if value not in (None, NEUTRAL_VALUES[name]) if name in NEUTRAL_VALUES else value:
            raise InvalidParamsError(f"{name} does not go with use_beam_search.", param=name)
    if body.form() is not None:
        raise InvalidParamsError("A form of the answer does not go with use_beam_search.", param="use_beam_search")
    return BeamSearchParams(
        beam_width=body.n or 1,
        max_tokens=max_tokens,
        ignore_eos=bool(body.ignore_eos),
        length_penalty=body.length_penalty,
        include_stop_str_in_output=bool(body.include_stop_str_in_output),
    )
