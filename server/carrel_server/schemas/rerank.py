"""The body of ``/rerank``, in Jina's, Cohere's, vLLM's and TEI's dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from carrel.errors import InvalidParamsError

from carrel_server.schemas.base import Body
from carrel_server.schemas.embedding import cut_of

Document = str | dict[str, Any]


class ScaledBody(Body):
    """What bodies that ask for scores have in common."""

    neutral: ClassVar[frozenset[str]] = frozenset({"user", "model", "request_id", "cache_salt", "metadata"})
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mm_processor_kwargs": (), "padding": ("do_not_pad",)}

    raw_scores: bool = False  # TEI's switch: the model's own scale in place of 0..1
    use_activation: bool = True  # vLLM's: false is raw_scores
    activation: bool = True  # its older name
    truncate: bool | str | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    truncation_direction: str | None = None  # TEI's word for it

    @property
    def raw(self) -> bool:
        return self.raw_scores or not (self.use_activation and self.activation)

    def cut(self, default: int | None) -> int | None:
        """Tokens that a query and a document may have together; None: an error when they are too long.

        Raises:
            InvalidParamsError: documents shall be cut at their beginnings.
        """
        for name in ("truncation_side", "truncation_direction"):
            if (getattr(self, name) or "right").lower() != "right":
                raise InvalidParamsError(f"{name} must be right: documents are cut at their end.", param=name)
        cut, side = cut_of(self.truncate)
        if side == "left":
            raise InvalidParamsError("truncate must not be START: documents are cut at their end.", param="truncate")
        if self.truncate_prompt_tokens is not None:
            return self.truncate_prompt_tokens
        return default if self.truncate is None else cut


class RerankBody(ScaledBody):
    query: str
    documents: list[Document] | None = None
    docs: list[Document] | None = None
    texts: list[Document] | None = None  # TEI's dialect: the answer is a bare list
    top_n: int | None = None
    top_k: int | None = None  # Voyage's name for it
    top: int | None = None
    return_documents: bool = True
    return_text: bool = False  # TEI
    max_tokens_per_doc: int | None = None
    rank_fields: list[str] | None = None  # Cohere v1: what of a document counts, in this order

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
        return [text_of(document, f"{name}[{i}]", self.rank_fields or ()) for i, document in enumerate(documents)]

    @property
    def cut_to(self) -> int | None:
        """As :meth:`cut`; a document that is too long is cut unless the body says otherwise."""
        return self.cut(-1)

    @property
    def limit(self) -> int | None:
        """How many results; null, 0, absent and too many all mean every one.

        Raises:
            InvalidParamsError: a negative number.
        """
        for name in ("top_n", "top_k", "top"):
            number: int | None = getattr(self, name)
            if number is not None and number < 0:
                raise InvalidParamsError(f"{name} must be at least 0, got {number}.", param=name)
            if number:
                return number
        return None


def text_of(document: Document, name: str, fields: Sequence[str] = ()) -> str:
    """A string, ``{"text": "…"}``, ``{"text": {"text": "…"}}``, or the ``fields`` of an object, one a line.

    >>> text_of({"title": "河", "text": "水"}, "documents[0]", ["title", "text"])
    '河\\n水'

    Raises:
        InvalidParamsError: there is none of that; the message holds ``name``.
    """
    if fields and isinstance(document, dict):
        return "\n".join(_field(document, name, field) for field in fields if document.get(field) is not None)
    value: Any = document
    while isinstance(value, dict):
        if "text" not in value:
            raise InvalidParamsError(f"{name} must be a string or an object with text.", param=name)
        value = value["text"]
    if not isinstance(value, str):
        raise InvalidParamsError(f"{name}.text must be a string.", param=name)
    return value


def _field(document: dict[str, Any], name: str, field: str) -> str:
    value = document[field]
    if not isinstance(value, str | int | float):
        raise InvalidParamsError(f"{name}.{field:.80} must be a string or a number.", param=name)
    return str(value)
