"""Sampling options as fields of a pydantic model, and what one call may change. Knows ranges through SamplingParams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, Self

from carrel.errors import InvalidParamsError
from carrel.params import SamplingParams
from pydantic import BaseModel, model_validator

from carrel_client.errors import NotAvailableError

TOOLS = frozenset({"tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"})
GRAMMARS = frozenset({"response_format", "guided_json", "guided_regex", "structured_outputs"})


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

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        self.sampling_options({})
        return self

    def sampling_options(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are set, those of one call over the adapter's own.

        Raises:
            InvalidParamsError: a value is out of range, or carrel has no such option.
            NotAvailableError: tools and grammars, which this carrel does not have yet.
        """
        names = SamplingFields.model_fields.keys()
        _refuse_unknown(overrides.keys() - names, known=names)
        options = {name: getattr(self, name) for name in names}
        options.update({name: value for name, value in overrides.items() if value is not None})
        options = {name: value for name, value in options.items() if value not in (None, [])}
        SamplingParams(**{"max_tokens": None, **options})  # refuses values out of range, over HTTP too
        return options


def _refuse_unknown(unknown: Set[str], *, known: Iterable[str]) -> None:
    if unknown & TOOLS:
        raise NotAvailableError("This carrel does not call tools yet: leave tools out and ask for text.")
    if unknown & GRAMMARS:
        raise NotAvailableError(
            "This carrel does not hold answers to a schema yet: ask for the format in the prompt and parse the text."
        )
    if unknown:
        raise InvalidParamsError(f"Unknown option {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
