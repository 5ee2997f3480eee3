"""The body of ``/score``, in each of vLLM's spellings."""

from __future__ import annotations

from typing import Any

from carrel.errors import InvalidParamsError

from carrel_server.schemas.rerank import Document, ScaledBody, text_of

SPELLINGS = (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items"))
Texts = str | dict[str, Any] | list[Document]


class ScoreBody(ScaledBody):
    """One text against many, or pairs."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None

    def pairs(self) -> tuple[list[str], list[str]]:
        """The two sides: as many each, or one on the first.

        Raises:
            InvalidParamsError: not exactly one spelling, an empty list, or lists that do not pair up.
        """
        first_name, second_name = self._spelling()
        first, second = self._texts(first_name), self._texts(second_name)
        if len(first) != len(second) and len(first) != 1:
            message = f"{first_name} must be one text or as many as {second_name}; got {len(first)} and {len(second)}."
            raise InvalidParamsError(message, param=first_name)
        return first, second

    def _spelling(self) -> tuple[str, str]:
        sent = {name for names in SPELLINGS for name in names if getattr(self, name) is not None}
        for names in SPELLINGS:
            if sent == set(names):
                return names
        known = "; ".join(" and ".join(names) for names in SPELLINGS)
        message = f"Send both sides, in one spelling: {known}."
        beside = [sorted(sent - set(names)) for names in SPELLINGS if sent > set(names)]
        missing = [name for names in SPELLINGS for name in names if sent & set(names) and name not in sent]
        raise InvalidParamsError(message, param=(*(beside[0] if beside else missing), "text_1")[0])

    def _texts(self, name: str) -> list[str]:
        value = getattr(self, name)
        entries = value if isinstance(value, list) else [value]
        if not entries:
            raise InvalidParamsError(f"{name} must hold at least one text.", param=name)
        return [text_of(entry, f"{name}[{index}]") for index, entry in enumerate(entries)]
