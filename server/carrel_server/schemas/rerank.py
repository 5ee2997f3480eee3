"""The bodies of ``/rerank`` (Jina's, Cohere's and TEI's dialects) and ``/score``."""

from __future__ import annotations

from typing import Any, ClassVar

from carrel.errors import InvalidParamsError

from carrel_server.schemas.base import Body

Document = str | dict[str, Any]


class RerankBody(Body):
    neutral: ClassVar[frozenset[str]] = frozenset({"user", "priority"})

    query: str
    documents: list[Document] | None = None
    docs: list[Document] | None = None
    texts: list[Document] | None = None  # TEI's dialect: the answer is a bare list
    top_n: int | None = None
    return_documents: bool = True
    return_text: bool = False  # TEI
    raw_scores: bool = False  # TEI
    truncate: bool | None = None
    truncate_prompt_tokens: int | None = None
    max_tokens_per_doc: int | None = None

    def document_texts(self) -> list[str]:
        """
        Raises:
            InvalidParamsError: not exactly one of ``documents``, ``docs`` and ``texts``; an empty list; a document
                without text.
        """
        if not self.query.strip():
            raise InvalidParamsError("query must not be empty.", param="query")
        sent = {name: value for name in ("documents", "docs", "texts") if (value := getattr(self, name)) is not None}
        if len(sent) != 1:
            raise InvalidParamsError("Send the documents as one of documents, docs or texts.", param="documents")
        name, documents = sent.popitem()
        if not documents:
            raise InvalidParamsError(f"{name} must hold at least one document.", param=name)
        return [_text(document, f"{name}[{index}]") for index, document in enumerate(documents)]

    @property
    def limit(self) -> int | None:
        """How many results; null, 0, absent and too many all mean every one.

        Raises:
            InvalidParamsError: a negative number.
        """
        if self.top_n is not None and self.top_n < 0:
            raise InvalidParamsError(f"top_n must be at least 0, got {self.top_n}.", param="top_n")
        return self.top_n or None

    @property
    def cut_to(self) -> int | None:
        """Tokens that query and document may have together; None: an error when they are too long."""
        if self.truncate_prompt_tokens is not None:
            return self.truncate_prompt_tokens
        return None if self.truncate is False else -1


class ScoreBody(Body):
    """``text_1`` and ``text_2``: one against many, or pairs."""

    text_1: str | list[str]
    text_2: str | list[str]
    truncate_prompt_tokens: int | None = None

    def check(self) -> None:
        """
        Raises:
            InvalidParamsError: an empty list, or lists that do not pair up.
        """
        first, second = _as_list(self.text_1), _as_list(self.text_2)
        for name, texts in (("text_1", first), ("text_2", second)):
            if not texts:
                raise InvalidParamsError(f"{name} must hold at least one text.", param=name)
        if len(first) != len(second) and len(first) != 1:
            message = f"text_1 must be one text or as many as text_2; got {len(first)} and {len(second)}."
            raise InvalidParamsError(message, param="text_1")


def _as_list(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _text(document: Document, name: str) -> str:
    """A string, ``{"text": "…"}`` or ``{"text": {"text": "…"}}``."""
    value: Any = document
    while isinstance(value, dict):
        if "text" not in value:
            raise InvalidParamsError(f"{name} must be a string or an object with text.", param=name)
        value = value["text"]
    if not isinstance(value, str):
        raise InvalidParamsError(f"{name}.text must be a string.", param=name)
    return value
