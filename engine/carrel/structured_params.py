"""The form that a generated text must have. Knows the ways to say it; compiles nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from carrel.errors import InvalidParamsError


@dataclass(frozen=True, kw_only=True)
class StructuredOutputsParams:
    """Exactly one form. Names and meanings are vLLM's; ``substrings_of`` is carrel's.

    Goes into ``SamplingParams(structured_outputs=…)``. JSON has the properties in the schema's order, and no more white
    space than a pretty printer writes. A chat's thoughts come before the form and are free.

    >>> from carrel import LLM, SamplingParams
    >>> answer = StructuredOutputsParams(choice=["是", "否"])
    >>> with LLM("starter/reader") as llm:
    ...     output = llm.generate("水是湿的吗?", SamplingParams(structured_outputs=answer), use_tqdm=False)[0]
    >>> output.outputs[0].text in answer.choice
    True

    Raises:
        InvalidParamsError: none is given, or several, or an empty one.
    """

    json: str | Mapping[str, Any] | bool | None = None  # a JSON schema, as an object or as JSON text
    json_object: bool | None = None  # any JSON object
    regex: str | None = None
    choice: Sequence[str] | None = None  # one of these texts
    grammar: str | None = None  # a context-free grammar: Lark as llguidance reads it, or llama.cpp's GBNF
    substrings_of: Sequence[str] | None = None  # a non-empty piece of one of these texts, verbatim

    def __post_init__(self) -> None:
        for name in ("choice", "substrings_of"):
            value = getattr(self, name)
            if value is not None:
                texts = (value,) if isinstance(value, str) else tuple(value)
                if not texts or not all(isinstance(text, str) and text for text in texts):
                    raise InvalidParamsError(f"{name} must hold texts, none of them empty.", param="structured_outputs")
                object.__setattr__(self, name, texts)
        if self.json_object is False:
            object.__setattr__(self, "json_object", None)
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(given) != 1:
            names = ", ".join(field.name for field in fields(self))
            raise InvalidParamsError(
                f"Give exactly one of {names}; got {', '.join(given) or 'none'}.", param="structured_outputs"
            )
