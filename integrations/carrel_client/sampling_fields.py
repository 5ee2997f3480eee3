"""Sampling options as fields of a pydantic model, and what one call may change. Knows ranges through SamplingParams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from carrel.errors import InvalidParamsError
from carrel.params import SamplingParams
from carrel.structured_params import StructuredOutputsParams
from pydantic import BaseModel, model_validator

from carrel_client.forms import FORM_FIELDS, read_form


class SamplingFields(BaseModel):
    """Sampling options with the names and meanings of ``carrel.SamplingParams``; None leaves the engine's default."""

    temperature: float | None = None
    max_tokens: int | None = None  # None: up to the context length
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    structured_outputs: Any = None  # StructuredOutputsParams, or the same as a dict
    response_format: dict[str, Any] | None = None  # OpenAI's way to ask for JSON; one of the two

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        self.sampling_options({})
        return self

    def sampling_options(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are set, those of one call over the adapter's own; a form as ``structured_outputs``.

        Raises:
            InvalidParamsError: a value is out of range, or carrel has no such option.
        """
        names = SamplingFields.model_fields.keys()
        if unknown := overrides.keys() - names:
            raise InvalidParamsError(f"Unknown option {', '.join(sorted(unknown))}; there are {', '.join(names)}.")
        given = {name: value for name, value in overrides.items() if value is not None}
        own = {name: getattr(self, name) for name in names}
        form = read_form(given if given.keys() & set(FORM_FIELDS) else own)
        options = {name: value for name, value in {**own, **given}.items() if name not in FORM_FIELDS}
        options = {name: value for name, value in options.items() if value not in (None, [])}
        options |= {} if form is None else {"structured_outputs": form}
        sampling_params(options)  # refuses values out of range, over HTTP too
        return options


def sampling_params(options: Mapping[str, Any], **more: Any) -> SamplingParams:
    """The engine's parameters; without ``max_tokens`` an answer goes on to the context length.

    Raises:
        InvalidParamsError: a value is out of range.
    """
    form = options.get("structured_outputs")
    made = {} if form is None else {"structured_outputs": StructuredOutputsParams(**form)}
    return SamplingParams(**{"max_tokens": None, **options, **made, **more})
