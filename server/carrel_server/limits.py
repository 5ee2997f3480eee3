"""How much one request may ask for. Looks at plain JSON before any schema does, so that a list of a million entries
costs nothing; knows the names of fields, whatever route they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carrel.params import MAX_BIASES

from carrel_server.errors import HttpError
from carrel_server.settings import CEILINGS, ServerSettings

LISTS = {
    "input": "max_inputs",
    "prompt": "max_inputs",
    "documents": "max_documents",
    "docs": "max_documents",
    "texts": "max_documents",
    "text_1": "max_documents",
    "text_2": "max_documents",
    "data_1": "max_documents",
    "data_2": "max_documents",
    "queries": "max_documents",
    "items": "max_documents",
    "stop": "max_stop_strings",
    "stop_token_ids": "max_stop_strings",
}
NESTED = ("extra_body", "options")  # OpenAI's SDKs' and Ollama's
MAX_NESTED = 3  # schemas read extra_body.options.extra_body, and nothing deeper
MAX_FIELDS = 1000  # of a body, and of the variables of a chat template
FIELDS = {"chat_template_kwargs": MAX_FIELDS, "logit_bias": MAX_BIASES}
NUMBERS = {"n": "max_choices", "best_of": "max_choices"}


def check_limits(body: Mapping[str, Any], settings: ServerSettings, depth: int = 0) -> None:
    """
    Raises:
        HttpError: 400 for a list that is too long or a number that is too large; it names the field and the flag.
    """
    for name, limit in LISTS.items():
        value = body.get(name)
        if isinstance(value, list) and len(value) > getattr(settings, limit) and not _is_one_input(name, value):
            raise _too_many(name, f"{len(value)} entries", limit, settings)
    check_numbers(body, settings)
    if len(body) > MAX_FIELDS:
        raise HttpError(400, f"The body has {len(body)} fields; {MAX_FIELDS} are allowed.")
    for name, most in FIELDS.items():
        if isinstance(inner := body.get(name), Mapping) and len(inner) > most:
            raise HttpError(400, f"{name} has {len(inner)} fields; {most} are allowed.", param=name)
    for name in NESTED:
        if isinstance(inner := body.get(name), dict) and depth < MAX_NESTED:
            check_limits(inner, settings, depth + 1)


def check_numbers(fields: Mapping[str, Any], settings: ServerSettings) -> None:
    """For fields as a schema has read them, too: it takes "3" for 3.

    Raises:
        HttpError: as :func:`check_limits`.
    """
    for name, limit in NUMBERS.items():
        number = fields.get(name)
        if isinstance(number, int | float) and number > getattr(settings, limit):
            raise _too_many(name, str(number), limit, settings)


def _is_one_input(name: str, value: list[Any]) -> bool:
    """A list of token ids is one prompt."""
    return LISTS[name] == "max_inputs" and isinstance(value[0], int)


def _too_many(name: str, what: str, limit: str, settings: ServerSettings) -> HttpError:
    most, flag = getattr(settings, limit), "--" + limit.replace("_", "-")
    advice = "" if most == CEILINGS.get(limit) else f", or start the server with a larger {flag}"
    message = f"{name}: {what} are more than the {most} that one request may have; send less at once{advice}."
    return HttpError(400, message, param=name)
