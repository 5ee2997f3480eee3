"""The form that an answer must have, in OpenAI's and in carrel's spelling, as one. Compiles nothing.

A form is ``{"json" | "json_object" | "regex" | "choice" | "grammar" | "substrings_of": …}``, exactly one of them: what
``StructuredOutputsParams`` of ``carrel.structured_params`` takes, and what the server reads as ``structured_outputs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from carrel.errors import InvalidParamsError
from carrel.structured_params import StructuredOutputsParams

Form = dict[str, Any]
FORM_FIELDS = ("response_format", "structured_outputs")


def read_form(given: Mapping[str, Any]) -> Form | None:
    """The one form that ``response_format`` or ``structured_outputs`` asks for.

    >>> read_form({"response_format": {"type": "json_object"}})
    {'json_object': True}
    >>> read_form({"structured_outputs": {"choice": ["是", "否"]}})
    {'choice': ('是', '否')}

    Raises:
        InvalidParamsError: both ask for one, or it is none that carrel knows.
    """
    forms = {
        "response_format": _of_response_format(given.get("response_format")),
        "structured_outputs": _of_structured_outputs(given.get("structured_outputs")),
    }
    asked = [form for form in forms.values() if form is not None]
    if len(asked) > 1:
        message = "response_format and structured_outputs each ask for a form of the answer; give one of them."
        raise InvalidParamsError(message, param="structured_outputs")
    return asked[0] if asked else None


def _of_response_format(given: Any) -> Form | None:
    kind = given.get("type") if isinstance(given, Mapping) else given
    if kind is None or kind == "text":
        return None
    if kind == "json_object":
        return {"json_object": True}
    schema = (given.get("json_schema") or {}).get("schema") if kind == "json_schema" else None
    if not isinstance(schema, Mapping):
        message = (
            'response_format must be {"type": "json_object"}, {"type": "text"} or '
            f'{{"type": "json_schema", "json_schema": {{"schema": …}}}}, got {given!r:.80}.'
        )
        raise InvalidParamsError(message, param="response_format")
    return {"json": dict(schema)}  # it holds whatever ``strict`` says, as on the server


def _of_structured_outputs(given: Any) -> Form | None:
    if given is None:
        return None
    names = [field.name for field in fields(StructuredOutputsParams)]
    if isinstance(given, Mapping):
        unknown = sorted(given.keys() - set(names))
        if unknown:
            message = f"structured_outputs has no {unknown[0]!r:.80}; there are {', '.join(names)}."
            raise InvalidParamsError(message, param="structured_outputs")
        given = StructuredOutputsParams(**given)
    if not isinstance(given, StructuredOutputsParams):
        message = f"structured_outputs must be StructuredOutputsParams or a dict, got {type(given).__name__}."
        raise InvalidParamsError(message, param="structured_outputs")
    return {name: value for name in names if (value := getattr(given, name)) is not None}
