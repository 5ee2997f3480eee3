"""The form an answer must have, in every spelling: OpenAI's ``response_format``, vLLM's ``structured_outputs``, and the
older ``guided_*``. Knows the spellings; what a form means is the engine's business."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from carrel.errors import InvalidParamsError
from carrel.structured_params import StructuredOutputsParams

FORMS: Mapping[str, tuple[type, ...]] = {
    "json": (dict, str, bool),
    "json_object": (bool,),
    "regex": (str,),
    "choice": (list,),
    "grammar": (str,),
    "substrings_of": (list, str),
}


@contextmanager
def form_named(place: str, *inner: str) -> Iterator[None]:
    """The engine knows a form by one name, clients by several: an error about it names theirs.

    Args:
        place: where the client's form stands: its field, or inside of it.
        inner: other names that errors inside may have for that place, the longest first.

    >>> with form_named("guided_regex"):
    ...     raise InvalidParamsError("structured_outputs: no.", param="structured_outputs")
    Traceback (most recent call last):
    carrel.errors.InvalidParamsError: guided_regex: no.
    """
    names = (*inner, "structured_outputs")
    try:
        yield
    except InvalidParamsError as error:
        message, field = str(error), error.param
        if field is None or field not in {_field_of(name) for name in names}:
            raise
        name = next((name for name in names if message.startswith(name)), None)
        if name is not None:
            message = place + message.removeprefix(name)
        elif field in message:  # it names several fields: these are the client's own
            raise
        raise InvalidParamsError(message, param=_field_of(place)) from error


def _field_of(place: str) -> str:
    return place.split(".")[0]


def one_form(given: Mapping[str, StructuredOutputsParams | None]) -> StructuredOutputsParams | None:
    """The one form among those that the fields of a body ask for.

    Raises:
        InvalidParamsError: two fields ask for one each.
    """
    forms = {name: form for name, form in given.items() if form is not None}
    if len(forms) > 1:
        names = " and ".join(forms)
        raise InvalidParamsError(f"{names} each ask for a form of the answer; send one of them.", param=list(forms)[-1])
    return next(iter(forms.values()), None)


def of_response_format(given: Mapping[str, Any] | None) -> StructuredOutputsParams | None:
    """
    >>> of_response_format({"type": "json_object"}).json_object
    True

    Raises:
        InvalidParamsError: an unknown type, or ``json_schema`` without a schema.
    """
    kind = "text" if not given else given.get("type")
    if kind == "text":
        return None
    assert given, "no format is text"
    if kind == "json_object":
        schema = given.get("schema")  # llama.cpp's and Together's way to give one
        return StructuredOutputsParams(json=schema) if isinstance(schema, dict) else JSON_OBJECT
    if kind == "json_schema":
        wrapped = given.get("json_schema")
        return of_json_schema(wrapped if isinstance(wrapped, dict) else {}, "response_format.json_schema")
    message = f"response_format.type must be text, json_object or json_schema, got {kind!r:.80}."
    raise InvalidParamsError(message, param="response_format")


def of_json_schema(given: Mapping[str, Any], place: str) -> StructuredOutputsParams:
    """``{"name", "schema", "strict"}``. The schema always holds, whatever ``strict`` says."""
    schema = given.get("schema")
    if not isinstance(schema, dict):
        raise InvalidParamsError(f"{place} must hold a schema, which is an object.", param=_field_of(place))
    return StructuredOutputsParams(json=schema)


def of_structured_outputs(given: Mapping[str, Any] | None, name: str = "structured_outputs") -> Any:
    """``{"json" | "json_object" | "regex" | "choice" | "grammar" | "substrings_of": …}``, exactly one of them.

    Raises:
        InvalidParamsError: none, several, a value of the wrong type, or an option that carrel does not have.
    """
    asked = {key: value for key, value in (given or {}).items() if value is not None and value is not False}
    if not given or not asked:
        return None
    for key, value in asked.items():
        if key not in FORMS:
            names = ", ".join(FORMS)
            raise InvalidParamsError(f"{name}.{key:.80} is not known to carrel; there are {names}.", param=name)
        if not isinstance(value, FORMS[key]):
            raise InvalidParamsError(f"{name}.{key} has a wrong type: {type(value).__name__}.", param=name)
    return StructuredOutputsParams(**asked)


JSON_OBJECT = StructuredOutputsParams(json_object=True)
